"""The formats of an exported model, and which of them an installation can write where."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcl_tf.config import EXPORTS, Config
from mcl_tf.constraints import Choice
from mcl_tf.data import arrays
from mcl_tf.errors import UsageError
from mcl_tf.export import edge, float16_weights, litert, model_card, onnx, saved_model, version_folders
from mcl_tf.export.signatures import ServedScorer

NAMES = {"saved_model": "SavedModel", "litert": "LiteRT model", "onnx": "ONNX model"}
PRECISIONS = {"saved_model": ("float32", "float16"), "litert": ("float32", "float16", "int8"), "onnx": ("float32",)}
_FILES: dict[str, Any] = {"litert": litert, "onnx": onnx}  # the formats that are one file


def export(detector, path, form: str, precision: str | None, images, new_version: bool, metrics: dict | None) -> str:
    """Write a fitted detector in one of the formats; `AnomalyDetector.export` describes the arguments.

    Returns:
      The absolute path of the model.

    Raises:
      UsageError: an argument is wrong or without effect, an extra is missing, the network has an operation that the
        format lacks, or the path holds something that no export has written or cannot be written.
    """
    if form not in EXPORTS:
        raise UsageError(f"format must be {Choice(*EXPORTS)}. Received: {form!r}")
    config = detector.config.serving
    own = {"saved_model": config.export_precision, "litert": config.litert_precision, "onnx": "float32"}
    precision = own[form] if precision is None else precision
    check_precision(form, precision, detector.fitted_config_.scoring.score)
    if new_version and form != "saved_model":
        raise UsageError(f"new_version needs the format saved_model. Received: {form}")
    if images is not None and precision != "int8":
        raise UsageError(f"images need the precision int8. Received: {form} with {precision}")
    card = model_card.make_card(detector, precision, metrics)
    if form == "saved_model":
        return _export_saved_model(detector, path, card, precision, new_version)
    path = check_target(path, form)
    served = ServedScorer(detector.scorer_, detector.calibration_scores_, detector.class_names_)
    if form == "onnx":
        return edge.write_file(path, onnx.convert(served, card))
    if images is not None:
        scorer = served.scorer
        batches = list(map(np.asarray, arrays.scoring_batches(images, 128, scorer.image_size, scorer.resize)))
        if not batches:
            raise UsageError("images must hold at least one image. Received: none")
        served = litert.moved_for_int8(served, np.concatenate(batches))
        card["threshold"]["value"] = float(served.scorer.threshold)
    return edge.write_file(path, litert.with_card(litert.convert(served, precision), card))


def _export_saved_model(detector, path, card, precision: str, new_version: bool) -> str:
    scorer, config = detector.scorer_, detector.config.serving
    if precision == "float16" and scorer.network is not None:
        scorer = scorer.with_network(float16_weights.with_float16_weights(scorer.network))
    return saved_model.export_saved_model(
        ServedScorer(scorer, detector.calibration_scores_, detector.class_names_),
        path,
        card=card,
        batch_sizes=config.serving_batch_sizes,
        new_version=new_version,
        keep=config.keep_versions,
    )


def check(config: Config) -> None:
    """Check, before a training, that its detector can be written in the formats that a configuration names.

    Raises:
      UsageError: it cannot.
    """
    if "litert" in config.serving.export:
        check_precision("litert", config.serving.litert_precision, config.scoring.score)
    if "onnx" in config.serving.export:
        onnx.check_installed()


def check_precision(form: str, precision: str, score: str) -> None:
    """Check that a detector with a kind of score can be written in a format with weights of a type.

    Raises:
      UsageError: it cannot.
    """
    if precision not in PRECISIONS[form]:
        raise UsageError(f"precision of {form} must be {Choice(*PRECISIONS[form])}. Received: {precision!r}")
    if precision == "int8" and score != "image":
        raise UsageError(
            "The precision int8 needs the score image, because the local score tells smaller differences than int8 "
            f"keeps. Possible: float32 or float16. Received: score {score}"
        )


def check_target(path, form: str):
    """Check that a model can be written to a path in a format, and that its extra is installed; return the path.

    Args:
      path: a folder of versions of a SavedModel, FILE.tflite or FILE.onnx.
      form: one of `EXPORTS`.

    Raises:
      UsageError: it cannot.
    """
    if form == "saved_model":
        version_folders.check_target(path)
        return path
    if form == "onnx":
        onnx.check_installed()
    return edge.check_target(path, _FILES[form].ENDING, _FILES[form].read_card)
