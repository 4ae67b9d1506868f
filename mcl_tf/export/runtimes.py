"""Runs exported files by the runtimes of other devices, with the interface of a SavedModel's signature."""

from __future__ import annotations

import pathlib
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import litert, onnx

_MODULES: dict[str, Any] = {module.ENDING: module for module in (litert, onnx)}


def is_device_model(path) -> bool:
    """Return whether a path is a file for another device."""
    path = pathlib.Path(path)
    return path.suffix in _MODULES and path.is_file()


def read_card(path) -> dict[str, Any]:
    """Read the model card of a file.

    Raises:
      UsageError: there is none.
    """
    return _MODULES[pathlib.Path(path).suffix].read_card(path)


def load(path):
    """Load a file and return a thread-safe function `images` uint8 [n, s, s, 3] -> {output: tensor [n]}.

    The outputs are those of `serving_default`, see `mcl_tf.export.saved_model`; `class_name` comes from the card.

    Raises:
      UsageError: it is not a file of this library, or its runtime is missing.
    """
    path = pathlib.Path(path)
    classes = np.array([name.encode() for name in read_card(path)["classes"]], object)
    run = _litert_function(path) if path.suffix == litert.ENDING else _onnx_function(path)

    def score(images):
        outputs = run(images.numpy())
        if not np.isfinite(outputs["score"]).all():
            raise UsageError("The model cannot score: it has no finite score for one of the images")
        outputs["class_name"] = classes[outputs["nearest_class"]]
        return {name: tf.constant(value) for name, value in outputs.items()}

    return score


def _litert_function(path):
    score, lock = litert.load(path.read_bytes()), threading.Lock()

    def run(images):
        with lock:
            # The values of one call are overwritten by the next.
            answers = [{k: v.copy() for k, v in score(images=image[None]).items()} for image in images]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    return run


def _onnx_function(path):
    try:
        import onnxruntime
    except ImportError:
        raise UsageError("An ONNX model needs onnxruntime to score: pip install 'mcl_tf[onnx]'") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of its C++ code have no public names
        raise UsageError(f"{path} cannot be loaded by ONNX Runtime: {one_line(error)}") from None
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))
