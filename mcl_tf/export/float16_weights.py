"""The network with its weights in half the bytes, for export."""

from __future__ import annotations

import tensorflow as tf


def half_precision(network) -> tf.keras.Model:
    """A network whose weights are float16 and whose arithmetic is float32.

    Args:
      network: functional model float [n, s, s, 3] -> [n, D] with float32 weights.

    Returns:
      A model of the same inputs and outputs, for inference alone.
    """
    inputs = tf.keras.Input(network.input_shape[1:])
    return tf.keras.Model(inputs, _HalfPrecision(network)(inputs), name="half_precision")


class _HalfPrecision(tf.keras.layers.Layer):
    """The graph of a network's forward pass with the weights that it reads replaced by float16 ones, cast back."""

    def __init__(self, network):
        super().__init__(name="half_precision", dtype="float32", autocast=False)
        specification = tf.TensorSpec([None, *network.input_shape[1:]], tf.float32)
        traced = tf.function(lambda x: network(x, training=False)).get_concrete_function(specification)
        self._input, self._output = traced.inputs[0].name, traced.outputs[0].name
        self._dimension = network.output_shape[-1]
        self._reads, self._halves = [], []
        replaced = {traced.inputs[0].op.name}
        inside = {id(handle): placeholder for handle, placeholder in traced.graph.captures}
        for variable in traced.graph.variables:
            placeholder = inside[id(variable.handle)]
            replaced.add(placeholder.op.name)
            reads = [op for op in placeholder.consumers() if op.type == "ReadVariableOp"]
            replaced.update(op.name for op in reads)
            self._reads.append([op.outputs[0].name for op in reads])
            half = self.add_weight(
                name=variable.name.split(":")[0].replace("/", "_"),
                shape=variable.shape,
                dtype="float16",
                initializer="zeros",
                trainable=False,
            )
            half.assign(tf.cast(variable, tf.float16))
            self._halves.append(half)
        self._definition = tf.compat.v1.GraphDef()
        for node in traced.graph.as_graph_def().node:
            if node.name not in replaced:
                kept = [name for name in node.input if name.removeprefix("^") not in replaced or name[0] != "^"]
                del node.input[:]
                node.input.extend(kept)
                self._definition.node.append(node)
        self.built = True

    def call(self, x):
        feeds = {self._input: x}
        for names, half in zip(self._reads, self._halves, strict=True):
            value = tf.cast(tf.convert_to_tensor(half), tf.float32)
            feeds.update({name: value for name in names})
        (output,) = tf.graph_util.import_graph_def(self._definition, feeds, [self._output], name="network")
        return tf.ensure_shape(output, [None, self._dimension])

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self._dimension)
