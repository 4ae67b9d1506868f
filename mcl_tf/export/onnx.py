"""Models for ONNX Runtime and other runtimes of ONNX: batches of any number of images, float32.

`mcl_tf.export.edge` describes input and outputs; n may be any number from 1 on. The extra `onnx` brings the converter,
tf2onnx, and `onnxruntime`, which runs a model without TensorFlow:

    import onnxruntime

    session = onnxruntime.InferenceSession("model.onnx")
    score, is_anomaly = session.run(["score", "is_anomaly"], {"images": images})  # uint8 [n, s, s, 3]

The card is the value of `model_card` in the metadata of the model: `session.get_modelmeta().custom_metadata_map`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import edge
from mcl_tf.export.model_card import parse_card, to_json
from mcl_tf.export.signatures import ServedScorer
from mcl_tf.utils import compat
from mcl_tf.utils.console import captured_messages

ENDING = ".onnx"
OPSET = 18  # that of ONNX Runtime 1.14, 2023
METADATA = "model_card"


def check_installed() -> None:
    """Check that the converter is installed.

    Raises:
      UsageError: it is not.
    """
    if importlib.util.find_spec("tf2onnx") is None or importlib.util.find_spec("onnx") is None:
        raise UsageError("The export for ONNX needs tf2onnx: pip install 'mcl_tf[onnx]'")


def convert(served: ServedScorer, card: dict[str, Any]) -> bytes:
    """Return a model in the format of ONNX, with its card in it.

    Args:
      served: the model to convert.
      card: the model card.

    Raises:
      UsageError: the converter is missing, or ONNX lacks an operation of the network.
    """
    check_installed()
    import onnx
    import tf2onnx

    size = served.scorer.image_size
    specification = tf.TensorSpec([None, size, size, 3], tf.uint8, name="images")
    # The converter would take constants that layers hold as tensors for inputs.
    function = compat.frozen(edge.scoring_function(served), specification)
    tf2onnx.logging.set_level(logging.ERROR)
    try:
        with captured_messages():
            model, _ = tf2onnx.convert.from_function(
                function, [specification], opset=OPSET, custom_op_handlers={"Erfc": (_convert_erfc, [])}
            )
        onnx.checker.check_model(model)  # operations that the converter does not know are still TensorFlow's
    except Exception as error:  # the converter raises errors of many kinds
        raise UsageError(f"The network cannot be converted for ONNX: {one_line(error)}") from None
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    model.metadata_props.add(key=METADATA, value=to_json(card))
    return model.SerializeToString()


def _convert_erfc(graph, node, name, arguments) -> None:
    """Replace the operation of GELU that tf2onnx does not know: erfc(x) = 1 - erf(x)."""
    del arguments
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    one = graph.make_const(f"{name}/one", np.array(1.0, np.float32))
    graph.remove_node(name)
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, shapes=[shape], dtypes=[dtype])


def read_card(path) -> dict[str, Any]:
    """Read the card of a file.

    Raises:
      UsageError: there is none, or the package `onnx` is missing.
    """
    check_installed()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        properties = onnx.load(os.fspath(path), load_external_data=False).metadata_props
        return parse_card({item.key: item.value for item in properties}[METADATA])
    except (OSError, ValueError, KeyError, DecodeError) as error:
        raise UsageError(f"{path} is not an ONNX model of this library: {one_line(error)}") from None
