"""Writes a SavedModel for TensorFlow Serving with self-ensemble inference inside, and changes the threshold of one."""

from __future__ import annotations

import logging
import math
import pathlib
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf.calibration import promised_rate, threshold_at
from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import version_folders
from mcl_tf.export.model_card import EXTRA, read_card, set_by_quantile, write_card
from mcl_tf.export.signatures import CALIBRATION, THRESHOLD, ServedScorer
from mcl_tf.export.warmup_requests import write_warmup
from mcl_tf.utils import compat

_VARIABLES = pathlib.Path("variables", "variables")
_logger = logging.getLogger(__name__)


def export_saved_model(
    served: ServedScorer, path, *, card: dict[str, Any] | None = None, batch_sizes=(), new_version=False, keep=0
) -> str:
    """Write a SavedModel atomically.

    Its signatures take any batch size, including 0:

    - `serving_default`: `images` uint8 [n, h, w, c] of any h and w, c = 1 (repeated to 3 channels), 3 or 4 (alpha is
      dropped) -> `score` float32 [n] (higher for more anomalous images), `is_anomaly` bool [n], `p_value` float32 [n]
      (probability that a normal image scores at least as high), `nearest_class` int32 [n], `class_name` string
      [n];
    - `serving_bytes`: `image_bytes` string [n], JPEG, PNG, BMP or GIF (no WebP or TIFF) -> the same;
    - `embed`: `images` -> `embedding` float32 [n, V, D];
    - `explain`: `images` -> `distances` float32 [n, V, C], `rotation` int32 [n, V], `flipped` bool [n, V], `heat_map`
      float32 [n, h, w].

    It is written by Keras' ExportArchive, because TensorFlow's C++ loader, and with it TensorFlow Serving, cannot read
    a plain `tf.Module` with a Keras 3 model.

    Args:
      served: the model to export.
      path: folder of the SavedModel; an older one is replaced if it holds nothing but what was exported. TensorFlow
        Serving needs a number as its name.
      card: content of assets.extra/model_card.json; None for no card.
      batch_sizes: ints, the batch sizes of the warm-up requests.
      new_version: whether `path` is a folder of versions, which gets a new one.
      keep: with `new_version`, the number of newest versions to keep; 0 for all. Only versions that were exported by
        this library count and are removed.

    Returns:
      The absolute path of the SavedModel.

    Raises:
      UsageError: the path is a file, holds other files, is a mount point or the working directory, or cannot be
        written.
    """
    path = pathlib.Path(path).expanduser().resolve()

    def write(folder):
        _write_archive(served, folder)
        (folder / EXTRA).mkdir(exist_ok=True)
        if card is not None:
            write_card(folder, card)
        if batch_sizes and not write_warmup(folder / EXTRA, served.scorer.image_size, batch_sizes):
            _logger.info(
                "No warm-up requests were written: they need the extra `serving` (pip install tensorflow-serving-api)."
            )

    return str(version_folders.add(path, write, keep) if new_version else version_folders.replace(path, write))


def _write_archive(served: ServedScorer, folder) -> None:
    archive = tf.keras.export.ExportArchive()
    # The model is not tracked: the archive finds the variables that the signatures read, and would store those of a
    # tracked model a second time.
    for name, (function, specification) in served.signatures().items():
        archive.add_endpoint(name, function, input_signature=[specification])
    compat.write_archive(archive, str(folder))


def set_threshold(
    saved_model_dir,
    *,
    quantile: float | None = None,
    value: float | None = None,
    set_by: str | None = None,
    keep: int = 0,
) -> str:
    """Write a new version of a SavedModel with another threshold; its graph and other weights stay the same.

    Args:
      saved_model_dir: a version, saved_model/<n>, or the folder of versions, whose newest one is used.
      quantile: share of normal images to pass, 0 to 1, see `calibration.threshold_at`.
      value: the threshold itself. Pass either this or `quantile`.
      set_by: how the value was found, for the model card.
      keep: the number of newest versions to keep; 0 for all.

    Returns:
      The absolute path of the new version.

    Raises:
      UsageError: not exactly one of quantile and value is given, it is out of range, or there is no SavedModel of this
        library.
    """
    if (quantile is None) == (value is None):
        raise UsageError(f"Pass either quantile or value. Received: quantile={quantile}, value={value}")
    if quantile is not None and not 0.0 <= quantile <= 1.0:
        raise UsageError(f"quantile must be a number from 0 to 1. Received: {quantile}")
    if value is not None and not math.isfinite(value):
        raise UsageError(f"value must be a finite number. Received: {value}")
    source = version_folders.find(saved_model_dir)
    check_version(source)
    card = read_card(source)
    tensors, keys = _read_variables(source)
    held_out = tensors[keys[CALIBRATION]]
    if quantile is not None:
        value = threshold_at(held_out, quantile)
    tensors[keys[THRESHOLD]] = np.float32(value)
    card["threshold"].update(
        value=float(np.float32(value)),
        set_by=set_by or ("given as a value" if quantile is None else set_by_quantile(quantile)),
        quantile=quantile,
        promised_rate=None if quantile is None else promised_rate(len(held_out), quantile),
        changed_from_version=int(source.name),
    )

    def write(folder):
        # The fingerprint would be that of the old variables.
        ignored = shutil.ignore_patterns("variables", "fingerprint.pb")
        shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True)
        (folder / "variables").mkdir()
        _write_variables(folder, tensors)
        write_card(folder, card)

    return str(version_folders.add(source.parent, write, keep))


def check_version(saved_model: pathlib.Path) -> None:
    """Check that a version can be written beside a SavedModel.

    Raises:
      UsageError: its name is not a number, or nothing can be written there.
    """
    if not (saved_model.name.isascii() and saved_model.name.isdecimal()):
        raise UsageError(
            f"The name of a version must be a number, from which the next follows. Received: {saved_model}"
        )
    version_folders.check_target(saved_model.parent)


def read_calibration_scores(saved_model: pathlib.Path) -> np.ndarray:
    """Return the scores of the held-out normal images, float32 [m], in ascending order.

    Raises:
      UsageError: the folder is not a SavedModel of this library.
    """
    tensors, keys = _read_variables(saved_model)
    return tensors[keys[CALIBRATION]]


def _read_variables(saved_model) -> tuple[dict[str, Any], dict[str, str]]:
    """Return all tensors of a SavedModel's checkpoint by key, and the keys of threshold and held-out scores."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        reader = tf.train.load_checkpoint(str(saved_model / _VARIABLES))
        tensors = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
        graph = TrackableObjectGraph.FromString(tensors["_CHECKPOINTABLE_OBJECT_GRAPH"])
        keys = {}
        for node in graph.nodes:
            for attribute in node.attributes:
                name = attribute.full_name.split("/")[-1].split(":")[0]
                if name in (THRESHOLD, CALIBRATION) and attribute.checkpoint_key in tensors:
                    keys[name] = attribute.checkpoint_key
        if set(keys) != {THRESHOLD, CALIBRATION}:
            raise ValueError("it has no threshold and held-out scores")
    except (ValueError, KeyError, tf.errors.OpError) as error:
        raise UsageError(f"The threshold of {saved_model} cannot be read: {one_line(error)}") from None
    return tensors, keys


def _write_variables(folder, tensors) -> None:
    """Write a checkpoint of exactly these tensors; an existing graph restores them by key."""
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(folder / _VARIABLES),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
