"""The self-supervised task: images in four rotations, and the views of self-ensemble inference.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), sections 3.1 (rotations) and 3.3 (self-ensemble).
"""

from __future__ import annotations

import math

import tensorflow as tf

from mcl_tf.config import DataConfig

ROTATIONS = 4
COUNTS = (1, 2, 4, 8)  # of the views that score an image
UNRESIZED = "unresized"  # beside `config.RESIZES`, for datasets of anomalies


def prepare(images, size: int, resize: str = DataConfig.resize):
    """Resize images to the square input of the network.

    Training, scoring and the SavedModel share this code. Resizing is bilinear with antialiasing. The result is rounded
    to uint8, so that an image stored at the network's size and one resized on the fly are equal to the bit.

    Args:
      images: uint8 [n, h, w, c] with c = 1 (repeated to 3 channels), 3, or 4 (the last channel, alpha, is dropped).
      size: side of the result in pixels.
      resize: what becomes of an image that is not square: "squeeze" stretches it, "pad" keeps its aspect ratio and
        mirrors it beyond its edges, "crop" takes its central square. `UNRESIZED` keeps the resolution of every image
        and takes its central part, mirrored beyond its edges.

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
        images = tf.cond(fits, lambda: images, lambda: _to_square(images, size, resize))
        images = tf.ensure_shape(images, [None, size, size, images.shape[-1]])
    elif sides != [size, size]:
        images = _to_square(images, size, resize)
    return tf.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images


def _to_square(images, size: int, resize: str):
    """Resize images uint8 [n, h, w, c] to uint8 [n, size, size, c], see `prepare`."""
    first, sides = place_in_square(tf.shape(images)[1:3], size, resize)
    if resize == "crop":
        height, width = tf.unstack(tf.shape(images)[1:3])
        side = tf.minimum(height, width)
        images = tf.image.crop_to_bounding_box(images, (height - side) // 2, (width - side) // 2, side, side)
    if resize != UNRESIZED:
        images = _resize(images, sides if resize == "pad" else (size, size))
    if resize in ("pad", UNRESIZED):
        for axis in (0, 1):
            images = tf.gather(images, _mirrored(size, first[axis], sides[axis]), axis=axis + 1)
    return images


def place_in_square(sides, size: int, resize: str):
    """Return where `prepare` puts an image.

    Args:
      sides: int32 [2], height and width of the image.
      size: side of the square in pixels.
      resize: see `prepare`.

    Returns:
      First row and column of the image in the square, and its height and width there, int32 [2] each. They are within
      the square for "pad", the square itself for "squeeze", and go beyond it for "crop". With `UNRESIZED`, height and
      width are those of the image.
    """
    if resize == UNRESIZED:
        return (size - sides) // 2, sides
    if resize == "squeeze":
        return tf.zeros(2, tf.int32), tf.fill([2], size)
    reference = tf.reduce_max(sides) if resize == "pad" else tf.reduce_min(sides)
    scaled = tf.cast(tf.round(tf.cast(sides * size, tf.float64) / tf.cast(reference, tf.float64)), tf.int32)
    scaled = tf.maximum(scaled, 1)
    return (size - scaled) // 2, scaled


def _mirrored(size: int, first, count):
    """Return the index int32 [size] of the pixel at every place, of `count` pixels from `first` on, mirrored beyond."""
    index = (tf.range(size) - first) % (2 * count)
    return tf.where(index < count, index, 2 * count - 1 - index)


def without_empty_batch(images):
    """Pad an empty batch with one image, because oneDNN's convolutions fail on it or return a wrong shape.

    Args:
      images: uint8 [n, h, w, c].

    Returns:
      (uint8 [max(n, 1), h, w, c], int scalar n).
    """
    count = tf.shape(images)[0]
    padding = tf.zeros([tf.cast(count == 0, tf.int32), *images.shape[1:]], images.dtype)
    return tf.concat([images, padding], 0), count


def _resize(images, sides):
    return tf.saturate_cast(tf.round(tf.image.resize(images, sides, antialias=True)), tf.uint8)


def to_float(images):
    """Convert uint8 [..., 3] to float32 in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def instances(labels, count: int = ROTATIONS):
    """Return rotation and label of every instance; each image gives four instances, side by side.

    Args:
      labels: int [B].
      count: the number R of instances per image: 4, or 1 for upright images alone.

    Returns:
      (rotations, labels), int32 [R B]. Instance R i + k is image i turned k times counter-clockwise, as by
      `numpy.rot90`. `mcl_tf.augmentation` turns the images.
    """
    rotations = tf.tile(tf.range(count), [tf.shape(labels)[0]])
    return rotations, tf.repeat(tf.cast(labels, tf.int32), count)


def central(images, area: float):
    """Enlarge the centre of images to their own size.

    A network that is trained on random crops sees objects larger than they are in whole images, and knows them best at
    that size (Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019, arXiv:1906.06423).

    Args:
      images: float32 [n, s, s, 3].
      area: share of the area of an image that is kept, in (0, 1]; the side is rounded to whole pixels.

    Returns:
      float32 [n, s, s, 3], resized bilinearly.
    """
    size = images.shape[1]
    side = max(1, round(size * math.sqrt(area)))
    if side == size:
        return images
    first = (size - side) // 2
    return tf.image.resize(images[:, first : first + side, first : first + side], [size, size])


def self_ensemble_views(images, views: int = 8):
    """Create the views that score an image (section 3.3).

    Args:
      images: [n, s, s, c].
      views: 8 (rotations, plain and flipped left-right), 4 (rotations), 2 (plain and flipped) or 1 (the image alone).

    Returns:
      [n * views, s, s, c], the views of an image side by side: k = 0 plain, k = 0 flipped, k = 1 plain, ...
    """
    turned = [
        _turn(images, rotation, flip) for rotation, flip in zip(view_rotations(views), view_flips(views), strict=True)
    ]
    return tf.reshape(tf.stack(turned, axis=1), [-1, *images.shape[1:]])


def _turn(images, rotation: int, flip: bool):
    """Flips images [n, s, s, c] left-right if asked for, then turns them counter-clockwise."""
    transposed = rotation % 2 == 1
    mirror_rows, mirror_columns = rotation in (1, 2), rotation in (2, 3)
    if flip:  # a flip before a quarter turn mirrors the rows after it
        mirror_rows, mirror_columns = mirror_rows ^ transposed, mirror_columns ^ (not transposed)
    if transposed:
        images = tf.transpose(images, (0, 2, 1, 3))
    axes = [1] * mirror_rows + [2] * mirror_columns
    return tf.reverse(images, axes) if axes else images


def view_rotations(views: int = 8) -> list[int]:
    """Return the rotation of each view, 0 to 3, in the order of `self_ensemble_views`."""
    return {8: [0, 0, 1, 1, 2, 2, 3, 3], 4: [0, 1, 2, 3], 2: [0, 0], 1: [0]}[views]


def view_flips(views: int = 8) -> list[bool]:
    """Return for each view whether it is flipped, in the order of `self_ensemble_views`."""
    return {8: [False, True] * ROTATIONS, 4: [False] * ROTATIONS, 2: [False, True], 1: [False]}[views]
