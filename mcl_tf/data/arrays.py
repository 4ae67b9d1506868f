"""Pictures as a caller hands them over: arrays or `tf.data.Dataset`s, checked and brought to one form."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data.tasks import choose_size, read_pictures
from mcl_tf.errors import UsageError

_FORM = "Pictures must be uint8 [n, h, w, c] with c = 1, 3 or 4, or a tf.data.Dataset of such"


def check_form(shape, dtype) -> None:
    """Refuses what are no pictures, by shape [n, h, w, c] and dtype."""
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape[1:] or dtype != np.uint8:
        raise UsageError(f"{_FORM}. Received: {np.dtype(dtype).name} {list(shape)}")


def as_pictures(images) -> np.ndarray:
    """An array of pictures, or of what can be one."""
    try:
        images = np.asarray(images)
    except ValueError:
        raise UsageError(f"{_FORM}. Received: pictures of several sizes; resize them or pass a dataset") from None
    check_form(images.shape, images.dtype)
    return images


def _unbatched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Single pictures (with what comes beside them) of a dataset of pictures or batches."""
    spec = dataset.element_spec
    picture = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(picture, tf.TensorSpec) or picture.shape.rank not in (3, 4):
        raise UsageError(f"{_FORM}. Received: elements {spec}")
    batched = picture.shape.rank == 4
    check_form(([] if batched else [None]) + picture.shape.as_list(), picture.dtype.as_numpy_dtype)
    return dataset.unbatch() if batched else dataset


def collect(images, labels, image_size: int):
    """All pictures in memory at the network's size.

    Args:
      images: uint8 array [n, h, w, c], or a dataset of pictures or (picture, label).
      labels: int [n] or None; must be None for a dataset.
      image_size: side, 0 for the pictures' own (between 16 and 224 pixels).

    Returns:
      uint8 [n, s, s, 3] and int [n] or None.

    Raises:
      UsageError: not pictures, fewer than two of them, or not one label each.
    """
    if isinstance(images, tf.data.Dataset):
        if labels is not None:
            raise UsageError("A dataset brings its labels as second part of its elements. Received: labels too")
        images = _unbatched(images)
        spec = images.element_spec
        shape = (spec[0] if isinstance(spec, tuple) else spec).shape
        if isinstance(spec, tuple) and not _is_label(spec[1:]):
            raise UsageError(f"What stands beside pictures must be integer labels. Received: {spec[1:]}")
        pictures, labels = read_pictures(images, choose_size(image_size, shape))
    else:
        images = as_pictures(images)
        size = choose_size(image_size, images.shape[1:])
        parts = [views.prepare(images[i : i + 256], size).numpy() for i in range(0, len(images), 256)]
        pictures = np.concatenate(parts) if parts else np.zeros((0, size, size, 3), np.uint8)
    if len(pictures) < 2:
        raise UsageError(f"Training needs at least two normal pictures. Received: {len(pictures)}")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(pictures),) or not np.issubdtype(labels.dtype, np.integer):
            raise UsageError(
                f"{len(pictures)} pictures need as many integer labels. Received: {labels.dtype} {labels.shape}"
            )
    return pictures, labels


def _is_label(rest) -> bool:
    label = rest[0] if len(rest) == 1 else None
    return isinstance(label, tf.TensorSpec) and label.shape.rank == 0 and label.dtype.is_integer


def hold_out(labels, config: DataConfig) -> np.ndarray:
    """The seeded share of pictures that is kept from training to set the threshold.

    Args:
      labels: int [n], n at least 2; the share is taken of every class, which keeps at least one picture.

    Returns:
      bool [n], at least one of them true where a class has two pictures.
    """
    held = np.zeros(len(labels), bool)
    rng = np.random.default_rng(config.seed)
    for label in np.unique(labels):
        places = rng.permutation(np.flatnonzero(labels == label))
        held[places[: min(round(len(places) * config.calibration_fraction), len(places) - 1)]] = True
    if not held.any():
        largest = np.bincount(labels).argmax()
        held[np.flatnonzero(labels == largest)[0]] = True
    return held


def scoring_batches(images, batch_size: int, size: int) -> Iterator:
    """Batches uint8 [at most batch_size, size, size, 3] of an array or a dataset, in order."""
    if isinstance(images, tf.data.Dataset):

        def picture_alone(picture, *_):
            return views.prepare(picture[None], size)[0]

        pictures = _unbatched(images).map(picture_alone, tf.data.AUTOTUNE, deterministic=True)
        yield from pictures.batch(batch_size).prefetch(2)
        return
    images = as_pictures(images)
    for start in range(0, len(images), batch_size):
        # Resized here, so that the network's graph sees one form, whatever the channels.
        yield views.prepare(tf.constant(images[start : start + batch_size]), size)
