"""A SavedModel for TensorFlow Serving, self-ensemble inference inside; and another threshold for one."""

from __future__ import annotations

import math
import pathlib
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import version_folders
from mcl_tf.export.model_card import EXTRA, read_card, set_by_quantile, write_card
from mcl_tf.export.signatures import CALIBRATION, THRESHOLD, ServedScorer
from mcl_tf.export.warmup_requests import write_warmup
from mcl_tf.scoring import threshold_at
from mcl_tf.utils import compat
from mcl_tf.utils.console import say

SIGNATURE = "serving_default"
_VARIABLES = pathlib.Path("variables", "variables")


def export_saved_model(
    served: ServedScorer, path, *, card: dict[str, Any] | None = None, batch_sizes=(), new_version=False, keep=0
) -> str:
    """Writes a SavedModel, complete or not at all: under another name first, then renamed.

    Its signatures, all of any batch size, 0 included:

    - `serving_default`: `images` uint8 [n, h, w, c] of any h and w, c = 1 (repeated to 3), 3 or 4 (alpha is
      dropped) -> `score` float32 [n] (higher is more abnormal), `is_anomaly` bool [n], `p_value` float32 [n]
      (share of the held-out normals that score at least as high), `nearest_class` int32 [n], `class_name`
      string [n];
    - `serving_bytes`: `image_bytes` string [n], JPEG, PNG, BMP or GIF -> the same;
    - `embed`: `images` -> `embedding` float32 [n, V, D];
    - `explain`: `images` -> `distances` float32 [n, V, C], `rotation` int32 [n, V], `flipped` bool [n, V].

    Keras' ExportArchive is what TensorFlow's C++ loader, and with it TF Serving, reads; a plain `tf.Module` is
    not.

    Args:
      served: what is exported.
      path: folder of the SavedModel; one that is there is replaced. For TF Serving its name is a number.
      card: content of assets.extra/model_card.json; none is written if None.
      batch_sizes: ints, the batch sizes of the warm-up requests.
      new_version: take `path` as a folder of versions and write the next one.
      keep: with `new_version`, how many of the newest versions stay; 0 for all.

    Returns:
      The SavedModel's path, absolute.

    Raises:
      UsageError: the path is a file or cannot be made.
    """
    path = pathlib.Path(path).resolve()

    def write(folder):
        _write_archive(served, folder)
        (folder / EXTRA).mkdir(exist_ok=True)
        if card is not None:
            write_card(folder, card)
        if batch_sizes and not write_warmup(folder / EXTRA, served.scorer.image_size, batch_sizes):
            say("No warm-up requests: they need the extra `serving` (pip install tensorflow-serving-api).")

    return str(version_folders.add(path, write, keep) if new_version else version_folders.replace(path, write))


def _write_archive(served: ServedScorer, folder) -> None:
    archive = tf.keras.export.ExportArchive()
    # Not tracked: the archive finds the variables that the signatures read, and would store a tracked model's
    # once more.
    for name, (function, specification) in served.signatures().items():
        archive.add_endpoint(name, function, input_signature=[specification])
    compat.write_archive(archive, str(folder))


def set_threshold(
    saved_model_dir, *, quantile: float | None = None, value: float | None = None, keep: int = 0
) -> str:
    """Writes the next version of a SavedModel with another threshold; graph and other weights stay as they are.

    Args:
      saved_model_dir: a version, saved_model/<n>, or the folder of versions, whose newest is taken.
      quantile: share of the held-out normals that is to pass, 0 to 1; the scores are in the model.
      value: the threshold itself; one of the two.
      keep: how many of the newest versions stay; 0 for all.

    Returns:
      The new version's path, absolute.

    Raises:
      UsageError: not one of quantile and value, one out of range, or no SavedModel of this library.
    """
    if (quantile is None) == (value is None):
        raise UsageError(
            f"Either quantile or value sets a threshold. Received: quantile={quantile}, value={value}"
        )
    if quantile is not None and not 0.0 <= quantile <= 1.0:
        raise UsageError(f"quantile must be a number from 0 to 1. Received: {quantile}")
    if value is not None and not math.isfinite(value):
        raise UsageError(f"value must be a finite number. Received: {value}")
    source = version_folders.find(saved_model_dir)
    if not source.name.isdecimal():
        raise UsageError(f"A version's name is a number, so that the next one has one. Received: {source}")
    card = read_card(source)
    tensors, keys = _read_variables(source)
    if quantile is not None:
        value = threshold_at(tensors[keys[CALIBRATION]], quantile)
    tensors[keys[THRESHOLD]] = np.float32(value)
    set_by = "given as a value" if quantile is None else set_by_quantile(quantile)
    card["threshold"] = {**card["threshold"], "value": float(np.float32(value)), "set_by": set_by}
    card["threshold"].update(quantile=quantile, changed_from_version=int(source.name))

    def write(folder):
        # The fingerprint would be that of the other variables.
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("variables", "fingerprint.pb"))
        (folder / "variables").mkdir()
        _write_variables(folder, tensors)
        write_card(folder, card)

    return str(version_folders.add(source.parent, write, keep))


def _read_variables(saved_model) -> tuple[dict[str, Any], dict[str, str]]:
    """Every tensor of a SavedModel's checkpoint by its key, and the keys of threshold and held-out scores."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    try:
        reader = tf.train.load_checkpoint(str(saved_model / _VARIABLES))
        tensors = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
        graph = TrackableObjectGraph.FromString(tensors["_CHECKPOINTABLE_OBJECT_GRAPH"])
        found = {}
        for node in graph.nodes:
            for attribute in node.attributes:
                name = attribute.full_name.split("/")[-1].split(":")[0]
                if name in (THRESHOLD, CALIBRATION) and attribute.checkpoint_key in tensors:
                    found[name] = attribute.checkpoint_key
        if set(found) != {THRESHOLD, CALIBRATION}:
            raise ValueError("it holds no threshold and held-out scores")
    except (ValueError, KeyError, tf.errors.OpError) as error:
        raise UsageError(f"The threshold of {saved_model} cannot be changed: {one_line(error)}") from None
    return tensors, found


def _write_variables(folder, tensors) -> None:
    """Writes a checkpoint of exactly these tensors, which a graph that is there restores by their keys."""
    names = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(folder / _VARIABLES),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(tensors[name]) for name in names],
    )
