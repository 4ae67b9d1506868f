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
    images = tf.convert_to_tensor(images)
    if images.shape[-1] == 4:
        images = images[..., :3]
    sides = images.shape[1:3].as_list()
    if None in sides:
        # Resizing to the same size changes nothing, but costs as much as a small network.
        fits = tf.reduce_all(tf.shape(images)[1:3] == size)
        images = tf.cond(fits, lambda: images, lambda: _resize(images, size))
        images = tf.ensure_shape(images, [None, size, size, images.shape[-1]])
    elif sides != [size, size]:
        images = _resize(images, size)
    return tf.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _resize(images, size: int):
    return tf.saturate_cast(tf.round(tf.image.resize(images, (size, size), antialias=True)), tf.uint8)


def to_float(images):
    """uint8 [..., 3] -> float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def instances(labels):
    """The instances of a batch: every picture in its four rotations, side by side.

    Args:
      labels: int [B].

    Returns:
      (rotations, labels), int32 [4 B]: instance 4 i + k is picture i turned k times counter-clockwise, as
      numpy.rot90. `mcl_tf.augmentation` does the turning.
    """
    rotations = tf.tile(tf.range(ROTATIONS), [tf.shape(labels)[0]])
    return rotations, tf.repeat(tf.cast(labels, tf.int32), ROTATIONS)


def self_ensemble_views(images, views: int = 8):
    """The views that score a picture (section 3.3).

    Args:
      images: [n, s, s, c].
      views: 8 (rotations, plain and flipped left-right), 4 (rotations) or 1 (the picture alone).

    Returns:
      [n * views, s, s, c], a picture's views side by side: k = 0 plain, k = 0 flipped, k = 1 plain, ...
    """
    if views == 1:
        return images
    side, channels = images.shape[1], images.shape[3]
    pixels = np.arange(side * side, dtype=np.int32).reshape(side, side)
    turns = zip(view_rotations(views), view_flips(views), strict=True)
    wanted = np.stack([np.rot90(pixels[:, ::-1] if flip else pixels, k) for k, flip in turns])
    # Every row of a view is one of the picture, of the transposed one, or the mirror image of such a row. To copy
    # whole rows takes half the time of copying pixels, which on a CPU is a tenth of scoring with a small network.
    flat = tf.reshape(images, [-1, side * side, channels])
    both = tf.concat([flat, tf.gather(flat, pixels.T.reshape(-1), axis=1)], 1)
    mirrored = tf.reverse(tf.reshape(both, [-1, side, channels]), [1])
    rows = tf.stack([tf.reshape(x, [-1, 2 * side, side * channels]) for x in (both, mirrored)], 1)
    sources = np.concatenate([pixels, pixels.T, pixels[:, ::-1], pixels.T[:, ::-1]])
    # Its two ends tell a row from all others.
    places = {tuple(ends): place for place, ends in enumerate(sources[:, [0, -1]].tolist())}
    order = [places[tuple(ends)] for ends in wanted[..., [0, -1]].reshape(-1, 2).tolist()]
    gathered = tf.gather(tf.reshape(rows, [-1, 4 * side, side * channels]), order, axis=1)
    return tf.reshape(gathered, [-1, side, side, channels])


def view_rotations(views: int = 8):
    """The rotation of each view in the order of `self_ensemble_views`: a list of `views` ints."""
    return {8: [0, 0, 1, 1, 2, 2, 3, 3], 4: [0, 1, 2, 3], 1: [0]}[views]


def view_flips(views: int = 8):
    """Whether each view is flipped, in the order of `self_ensemble_views`: a list of `views` bools."""
    return {8: [False, True] * ROTATIONS, 4: [False] * ROTATIONS, 1: [False]}[views]
