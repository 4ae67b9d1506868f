"""The self-supervised task: pictures in four rotations, and the views of self-ensemble inference.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), sections 3.1 (rotations) and 3.3 (self-ensemble).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

ROTATIONS = 4


def prepare(images, size: int):
    """Resizes pictures to the network's square; the same code in training, scoring and the SavedModel.

    Bilinear with antialiasing, rounded to uint8, so that a picture stored at the network's size and one
    resized on the fly are equal to the bit. The aspect ratio is not kept.

    Args:
      images: uint8 [n, h, w, c] with c = 1 (repeated to 3), 3 or 4 (the last, alpha, is dropped).
      size: side of the result in pixels.

    Returns:
      uint8 [n, size, size, 3].
    """
    if images.shape[-1] == 4:
        images = images[..., :3]
    if images.shape[1] != size or images.shape[2] != size:
        images = tf.round(tf.image.resize(images, (size, size), antialias=True))
    images = tf.saturate_cast(images, tf.uint8)
    return tf.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def to_float(images):
    """uint8 [..., 3] -> float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def four_rotations(images):
    """The instances of a batch: [B, s, s, c] -> [4 B, s, s, c]; row 4 i + k is picture i turned k times.

    Turns are counter-clockwise, as numpy.rot90.
    """
    return _versions(images, list(range(ROTATIONS)), [False] * ROTATIONS)


def self_ensemble_views(images, views: int = 8):
    """The views that score a picture (section 3.3).

    Args:
      images: [n, s, s, c].
      views: 8 (rotations, plain and flipped left-right), 4 (rotations) or 1 (the picture alone).

    Returns:
      [n * views, s, s, c], a picture's views side by side: k = 0 plain, k = 0 flipped, k = 1 plain, ...
    """
    return _versions(images, view_rotations(views), view_flips(views))


def _versions(images, turns, flips):
    """Square pictures [n, s, s, c] -> [n V, s, s, c], each picture's V versions side by side.

    One gather of pixels: transposing and reversing took several times as long on a CPU.
    """
    side, channels = images.shape[1], images.shape[3]
    pixels = np.arange(side * side).reshape(side, side)
    versions = [np.rot90(pixels[:, ::-1] if flip else pixels, k) for k, flip in zip(turns, flips, strict=True)]
    order = tf.constant(np.stack(versions).reshape(-1), tf.int32)
    flat = tf.reshape(images, [-1, side * side, channels])
    return tf.reshape(tf.gather(flat, order, axis=1), [-1, side, side, channels])


def view_rotations(views: int = 8):
    """The rotation of each view in the order of `self_ensemble_views`: a list of `views` ints."""
    return {8: [0, 0, 1, 1, 2, 2, 3, 3], 4: [0, 1, 2, 3], 1: [0]}[views]


def view_flips(views: int = 8):
    """Whether each view is flipped, in the order of `self_ensemble_views`: a list of `views` bools."""
    return {8: [False, True] * ROTATIONS, 4: [False] * ROTATIONS, 1: [False]}[views]
