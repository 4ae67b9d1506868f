"""The size of the global batch: a multiple of the replicas, no larger than the data, and within the memory."""

from __future__ import annotations

import logging
from collections.abc import Callable

import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.utils import memory
from mcl_tf.views import ROTATIONS

VIEWS_PER_IMAGE = 2 * ROTATIONS  # two augmentations of every rotation
_SHARE = 0.8  # of the free memory that a training step may take
_SMALLEST = 4  # images; contrast within fewer has hardly any negatives
_SIDES = (768, 512, 384, 320, 256, 224, 192, 160, 128, 96, 64, 48, 32, 24, 16, 8)  # pixels
_logger = logging.getLogger(__name__)


def global_batch_size(requested: int, count: int, replicas: int) -> int:
    """Return the batch size, limited to the number of images and a multiple of the number of replicas.

    Args:
      requested: the configured batch size.
      count: the number of training images.
      replicas: the number of replicas.

    Raises:
      UsageError: the batch size is not divisible by the replicas, or there are fewer images than replicas.
    """
    if requested % replicas:
        lower = requested // replicas * replicas
        near = f"{lower} or {lower + replicas}" if lower else f"{replicas}"
        raise UsageError(f"batch_size must be divisible by the {replicas} replicas, e.g. {near}. Received: {requested}")
    size = min(requested, count // replicas * replicas)
    if size == 0:
        raise UsageError(f"Training needs at least one image per replica. Received: {count} for {replicas}")
    return size


def limit_to_memory(size: int, replicas: int, encoder, build: Callable) -> int:
    """Return the batch size, halved until a training step fits into the free memory.

    Only CPUs are checked: on a GPU, TensorFlow reports by itself what it lacks.

    Args:
      size: the global batch size.
      replicas: the number of replicas.
      encoder: the encoder to train.
      build: function from a side in pixels to the encoder for it.

    Raises:
      UsageError: not even a small batch fits; the message names an image size that does.
    """
    free = memory.available()
    if free is None or tf.config.list_logical_devices("GPU"):
        return size
    per_image = VIEWS_PER_IMAGE * memory.training_bytes_per_view(encoder)
    fitting = size
    while fitting * per_image > _SHARE * free and fitting // 2 // replicas * replicas >= _SMALLEST:
        fitting = fitting // 2 // replicas * replicas
    if fitting * per_image > _SHARE * free and fitting > 1:
        side = encoder.input_shape[1]
        raise UsageError(
            f"A training step with {fitting} images of {side}x{side} pixels takes about "
            f"{_gigabytes(fitting * per_image)}, and {_gigabytes(free)} are free. Possible: "
            f"{_possible_size(side, _SHARE * free / fitting, build)}. Received: {side}"
        )
    if fitting < size:
        _logger.warning(
            "batch_size is %d instead of %d, and the learning rate follows: a training step takes about %s per image, "
            "and %s are free.",
            fitting,
            size,
            _gigabytes(per_image),
            _gigabytes(free),
        )
    return fitting


def _possible_size(side: int, limit: float, build: Callable) -> str:
    """Name the largest common side with which an image takes at most `limit` bytes."""
    for smaller in (common for common in _SIDES if common < side):
        try:
            encoder = build(smaller)
        except UsageError:  # the encoder does not take such small images
            break
        if VIEWS_PER_IMAGE * memory.training_bytes_per_view(encoder) <= limit:
            return f"image_size {smaller}"
    return "a smaller encoder"


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
