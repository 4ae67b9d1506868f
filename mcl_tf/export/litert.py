"""Models for LiteRT (TensorFlow Lite): one image at a time, with float32, float16 or int8 weights.

`mcl_tf.export.edge` describes input and outputs. The batch is one image, because the fast kernels need a fixed shape;
the signature has the name `serving_default`. TensorFlow brings the converter; `ai-edge-litert` (extra `litert`) runs a
model without TensorFlow:

    from ai_edge_litert.interpreter import Interpreter

    score = Interpreter("model.tflite").get_signature_runner()
    answer = score(images=image[None])  # uint8 [1, s, s, 3]

The card lies in the file as the formats of TensorFlow Lite provide for it, in a ZIP archive at its end:
`unzip -p model.tflite model_card.json`.

- float16 stores weights, and other constants such as the threshold, in half the bytes and computes in float32.
- int8 stores weights in a quarter of the bytes and quantizes the inputs of convolutions and products when they are
  computed (dynamic range). It moves all scores a little; the shift is measured on normal images, and threshold and
  held-out scores move with it. Full-integer quantization ruins the distances, see benchmarks/edge.md.
"""

from __future__ import annotations

import io
import pathlib
import re
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import edge
from mcl_tf.export.model_card import CARD, parse_card, to_json
from mcl_tf.export.signatures import ServedScorer
from mcl_tf.utils import compat
from mcl_tf.utils.console import captured_messages, tracked

ENDING = ".tflite"
SIGNATURE = "serving_default"


def convert(served: ServedScorer, precision: str) -> bytes:
    """Return a model as a flatbuffer, without its card.

    Args:
      served: the model to convert.
      precision: type of the weights: "float32", "float16" or "int8".

    Raises:
      UsageError: LiteRT lacks an operation of the network.
    """
    size = served.scorer.image_size
    specification = tf.TensorSpec([1, size, size, 3], tf.uint8, name="images")
    module = tf.Module()
    # Variables would stay variables, without values.
    module.score = compat.frozen(edge.scoring_function(served), specification)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.score.get_concrete_function()], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with captured_messages():
        try:
            return converter.convert()
        except Exception as error:  # the converter's own has no public name, and its text fills the screen
            reason = _missing_operations(str(error)) or one_line(error)
    raise UsageError(f"The network cannot be converted for LiteRT: {reason}")


def _missing_operations(text: str) -> str:
    """Return which operations LiteRT lacks, from the message of the converter; "" if it names none."""
    names = sorted(set(", ".join(re.findall(r"^(?:TF Select|Custom) ops: (.+)$", text, re.MULTILINE)).split(", ")))
    return f"LiteRT has no {', '.join(names)}" if any(names) else ""


def moved_for_int8(served: ServedScorer, images) -> ServedScorer:
    """Return a copy whose threshold and held-out scores are moved as int8 weights move the scores of normal images.

    Args:
      served: the model; it stays as it is.
      images: uint8 [n, s, s, 3], n at least 1, normal images that were not trained on.

    Raises:
      UsageError: LiteRT lacks an operation of the network.
    """
    score = load(convert(served, "int8"))
    found = np.array([score(images=image[None])["score"][0] for image in tracked(images, "Measuring int8 scores")])
    shift = np.float32(np.median(found - served.scorer.scores(images, visible=False)))
    scorer = served.scorer.with_network(served.scorer.network)
    scorer.threshold.assign_add(shift)
    return ServedScorer(scorer, np.asarray(served.calibration_scores) + shift, served.class_names)


def with_card(data: bytes, card: dict[str, Any]) -> bytes:
    """Return a model with its card in it."""
    file = io.BytesIO(data)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(CARD, to_json(card))
    return file.getvalue()


def read_card(path) -> dict[str, Any]:
    """Read the card of a file.

    Raises:
      UsageError: there is none.
    """
    try:
        with zipfile.ZipFile(pathlib.Path(path)) as archive:
            return parse_card(archive.read(CARD).decode())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not a LiteRT model of this library: {one_line(error)}") from None


def load(data: bytes):
    """Return the function of a model: `images` uint8 [1, s, s, 3] -> {output: array [1]}. It is not thread-safe.

    Raises:
      UsageError: the bytes are not a model with such a function.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter  # the same, but announced to be removed from TensorFlow
    try:
        with captured_messages():
            score = Interpreter(model_content=data).get_signature_runner(SIGNATURE)
            shape = score.get_input_details()["images"]["shape"]
            score(images=np.zeros(shape, np.uint8))  # the first call is talkative
        return score
    except (ValueError, RuntimeError, KeyError) as error:
        raise UsageError(f"The model cannot be loaded by LiteRT: {one_line(error)}") from None
