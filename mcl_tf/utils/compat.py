"""All differences between TensorFlow 2.15 with Keras 2 and TensorFlow 2.16 to 2.21 with Keras 3.

No other module asks for a version.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.version import check_tensorflow

check_tensorflow(tf.__version__)  # again, for builds whose package has another name

KERAS_3 = not keras.__version__.startswith("2.")
_lock = threading.RLock()  # or two threads would restore what the other has drawn or set


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Context manager, or decorator, that leaves the caller's random generators as they are.

    A layer without a seed draws one from Python's generator, or with Keras 2 from that of `set_random_seed`.
    """
    with _lock:
        generators = [random, *([] if KERAS_3 else _keras_2_generators())]
        before = [generator.getstate() for generator in generators]
        try:
            yield
        finally:
            for generator, state in zip(generators, before, strict=True):
                generator.setstate(state)


def _keras_2_generators() -> list[Any]:
    generator = getattr(keras.src.backend._SEED_GENERATOR, "generator", None)
    return [] if generator is None else [generator]


def seed_layers(model, seed: int) -> None:
    """Seed the layers of a model that draw random numbers in training, such as dropout; they draw seeds of their own.

    Args:
      model: a Keras model.
      seed: int.
    """
    seeds = np.random.default_rng([seed, *b"layers"])
    for layer in model._flatten_layers():
        if KERAS_3:
            for generator in layer._seed_generators:
                generator.state.assign([int(seeds.integers(2**31)), 0])
        elif hasattr(layer, "_random_generator"):
            # Its own generator draws from global state; this one has a variable.
            kind = keras.src.backend.RandomGenerator
            layer._random_generator = kind(int(seeds.integers(2**31)), rng_type=kind.RNG_STATEFUL)
            layer._random_generator._maybe_init()


def generator_states(model) -> list[Any]:
    """Return the variables of layers that draw random numbers, which a checkpoint of the model lacks."""
    layers = list(model._flatten_layers())
    if KERAS_3:
        return [generator.state.value for layer in layers for generator in layer._seed_generators]
    return [layer._random_generator._generator.state for layer in layers if hasattr(layer, "_random_generator")]


@contextlib.contextmanager
def keras_defaults() -> Iterator[None]:
    """Context manager, or decorator, under which the global settings of Keras are its defaults.

    Layers take what their arguments leave open from these settings: dtype policy, floatx and data format. What a
    network computes would otherwise depend on the program around it, or on ~/.keras/keras.json. Layers keep what they
    were created with; the caller's settings are restored at the end.
    """
    backend, precision = tf.keras.backend, tf.keras.mixed_precision
    with _lock:
        before = backend.floatx(), backend.image_data_format(), precision.global_policy()
        _set_keras("float32", "channels_last", "float32")
        try:
            yield
        finally:
            _set_keras(*before)


def _set_keras(floatx: str, data_format: str, policy) -> None:
    tf.keras.backend.set_floatx(floatx)
    tf.keras.backend.set_image_data_format(data_format)
    tf.keras.mixed_precision.set_global_policy(policy)


def update_arguments(gradient, variable, learning_rate) -> tuple:
    """Return the arguments of `Optimizer.update_step`: Keras 3 passes the learning rate, Keras 2 reads it itself."""
    return (gradient, variable, learning_rate) if KERAS_3 else (gradient, variable)


def slot(optimizer, slots, variable) -> tf.Variable:
    """Return the optimizer's own variable that belongs to a weight.

    Args:
      optimizer: a Keras optimizer.
      slots: its list of such variables, e.g. `optimizer.momentums`.
      variable: the weight.
    """
    if KERAS_3:
        return slots[optimizer._get_variable_index(variable)].value
    return slots[optimizer._index_dict[optimizer._var_key(variable)]]


def build_optimizer(optimizer, variables) -> None:
    """Create the optimizer's variables for a checkpoint; the class of TensorFlow Addons has an older interface."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:
        optimizer.iterations  # noqa: B018 - creates the variable
        optimizer._create_all_weights(variables)


def current_learning_rate(optimizer) -> float:
    """Return the optimizer's learning rate; the class of TensorFlow Addons returns the schedule itself."""
    rate = optimizer.learning_rate
    return float(rate(optimizer.iterations) if callable(rate) else tf.convert_to_tensor(rate))


def write_archive(archive, path: str) -> None:
    """Write a `tf.keras.export.ExportArchive` without the text that Keras 3 prints by default."""
    archive.write_out(path, **({"verbose": False} if KERAS_3 else {}))


def frozen(function, specification):
    """Return a function of one tensor that has no variables: their values are constants of its graph.

    Args:
      function: from a tensor to {name: tensor}.
      specification: the `tf.TensorSpec` of the tensor.
    """
    # TensorFlow has no public name for this; its own converters use it, in both stacks.
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    concrete = tf.function(function, input_signature=[specification], autograph=False).get_concrete_function()
    names = sorted(concrete.structured_outputs)  # the order in which a graph lists the values of a dictionary
    constant = convert_variables_to_constants_v2(concrete)
    graph, ends = constant.graph.as_graph_def(), [output.name for output in constant.outputs]
    functions = [function.node_def for function in graph.library.function]
    for node in (node for nodes in (graph.node, *functions) for node in nodes):
        node.attr.pop("_gradient_op_type", None)  # a SavedModel would store custom gradients, and not all can be

    def call(tensor):
        values = tf.graph_util.import_graph_def(graph, {constant.inputs[0].name: tensor}, ends, name="frozen")
        return dict(zip(names, values, strict=True))

    return tf.function(call, input_signature=[specification], autograph=False)


def exclude_from_decay(optimizer, variables) -> None:
    """Exclude variables from an optimizer's weight decay; the class of TensorFlow Addons goes by their names."""
    if hasattr(optimizer, "exclude_from_weight_decay") and callable(optimizer.exclude_from_weight_decay):
        optimizer.exclude_from_weight_decay(var_list=variables)
    else:
        optimizer.exclude_from_weight_decay = [re.escape(variable.name) + "$" for variable in variables]


def lamb(learning_rate, weight_decay: float):
    """Create LAMB from Keras where it has it, else from TensorFlow Addons.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: decoupled weight decay.

    Raises:
      UsageError: neither has it.
    """
    if hasattr(tf.keras.optimizers, "Lamb"):
        return tf.keras.optimizers.Lamb(learning_rate, weight_decay=weight_decay)
    try:
        import tensorflow_addons as tfa
    except ImportError:
        raise UsageError(
            "optimizer lamb needs Keras 3.5 or newer, or TensorFlow Addons: pip install 'mcl_tf[addons]'. "
            f"Received: Keras {keras.__version__}"
        ) from None
    return tfa.optimizers.LAMB(learning_rate, weight_decay=weight_decay)


def float16_weights_policy():
    """Return a dtype policy with float16 weights and float32 arithmetic, which Keras has no name for."""
    base: Any = keras.DTypePolicy if KERAS_3 else tf.keras.mixed_precision.Policy

    class Float16Weights(base):
        def _parse_name(self, name):
            del name
            return "float32", "float16"  # compute, variables

    return Float16Weights("float32")


@contextlib.contextmanager
def gradients_forgotten() -> Iterator[None]:
    """Context manager at whose end TensorFlow forgets the custom gradients of the graphs that were built within.

    It registers every gradient of `tf.custom_gradient` in a graph; Keras' optimizers have one, too. What is registered
    is never removed, and keeps the graph and its tensors for as long as the process lives. No other gradient of these
    graphs can be built afterwards; those that are part of a graph stay.
    """
    from tensorflow.python.framework import ops  # there is no public way to remove a gradient

    registered = ops.gradient_registry._registry
    before = set(registered)
    try:
        yield
    finally:
        for name in [name for name in registered if name not in before and name.startswith("CustomGradient-")]:
            del registered[name]


@contextlib.contextmanager
def without_retracing_warning() -> Iterator[None]:
    """Context manager that keeps TensorFlow from warning of frequent retracing.

    Every training traces its own step once; several in one process look like one function that is traced again and
    again.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    tf.get_logger().addFilter(is_other)
    try:
        yield
    finally:
        tf.get_logger().removeFilter(is_other)


def graph(function, shape, dtype=tf.uint8):
    """Return a function of one tensor as a graph, traced once.

    Several detectors in one process each have their own; TensorFlow would take that for frequent retracing and warn.

    Args:
      function: takes the tensor.
      shape: of the tensor; None for variable dimensions.
      dtype: of the tensor.
    """
    traced = tf.function(function, input_signature=[tf.TensorSpec(shape, dtype)], autograph=False)
    traced._omit_frequent_tracing_warning = True
    return traced
