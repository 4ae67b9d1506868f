"""SimCLR's augmentation, batched, on the device, with stateless random numbers.

Flip and random resized crop are two batched matrix products (`crop_and_resize` has no XLA kernel); brightness,
contrast, saturation and greyscale are one affine map of the colours a picture, before and after the hue shift.

Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020
(arXiv:2002.05709), appendix A; torchvision's definitions of the colour factors.
"""

from __future__ import annotations

import math

import tensorflow as tf

from mcl_tf.config import AugmentationConfig
from mcl_tf.random_numbers import uniform

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL and torchvision
_TRIES = 10  # crops drawn until one fits, as torchvision
# Places in a view's vector of random numbers.
_FLIP, _LEFT, _TOP, _JITTER, _GREY, _FACTORS, _ORDER, _CROP = 0, 1, 2, 3, 4, 5, 9, 13
_DRAWS = _CROP + 2 * _TRIES


def augment(images, rotations, *, seed, step, places, total, config: AugmentationConfig):
    """Two independent augmentations of every instance.

    Args:
      images: float32 [n, s, s, 3] in [0, 1].
      rotations: int32 [n]; instances turned by 90 or 270 degrees are flipped up-down, the others left-right,
        which is left-right in the picture's own upright frame.
      seed, step: integers; with `places` all that the random numbers depend on.
      places: int32 [n], the instances' places in the global batch, so that they get the same augmentation
        however many replicas share it.
      total: the number of instances in the global batch.
      config: probabilities and strength.

    Returns:
      float32 [2 n, s, s, 3] in [0, 1]: the first views of all, then the second.
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    draws = uniform([total, 2, _DRAWS], key)
    draws = tf.reshape(tf.transpose(tf.gather(draws, places), (1, 0, 2)), [-1, _DRAWS])
    planes = tf.tile(tf.transpose(images, (0, 3, 1, 2)), (2, 1, 1, 1))
    planes = flip_and_crop(planes, tf.tile(rotations, [2]), draws, config)
    return jitter_colours(planes, draws, config)


def flip_and_crop(planes, rotations, draws, config: AugmentationConfig):
    """Random flip and random resized crop, bilinear, of pictures [n, 3, h, w]."""
    height, width = planes.shape[2:]
    area = config.crop_min_area + draws[:, _CROP : _CROP + _TRIES] * (1.0 - config.crop_min_area)
    aspect = tf.exp((2.0 * draws[:, _CROP + _TRIES :] - 1.0) * math.log(4.0 / 3.0))
    wide, high = tf.sqrt(area * aspect), tf.sqrt(area / aspect)
    fits = tf.cast((wide <= 1.0) & (high <= 1.0), tf.float32)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)  # the whole picture's width if none fits
    wide = tf.minimum(tf.gather(wide, first, batch_dims=1), 1.0)
    high = tf.minimum(tf.gather(high, first, batch_dims=1), 1.0)

    flip = draws[:, _FLIP] < config.flip_probability
    sideways = rotations % 2 == 1
    rows = _resampling(height, high, draws[:, _TOP], flip & sideways)
    columns = _resampling(width, wide, draws[:, _LEFT], flip & ~sideways)
    planes = tf.reshape(planes, [-1, 3 * height, width])
    planes = tf.reshape(tf.matmul(planes, columns, transpose_b=True), [-1, 3, height, width])
    return tf.matmul(rows[:, None], planes)


def _resampling(size: int, fraction, offset, flip):
    """Bilinear interpolation of a window back to `size` pixels as a matrix [n, size, size].

    The window covers `fraction` of the axis, placed by `offset` in [0, 1); pixels beyond its edge repeat the
    edge. With `flip` the axis is mirrored first.
    """
    window = fraction * size
    start = offset * (size - window)
    target = (tf.range(size, dtype=tf.float32) + 0.5) * fraction[:, None] - 0.5
    source = start[:, None] + tf.clip_by_value(target, 0.0, tf.maximum(window[:, None] - 1.0, 0.0))
    source = tf.minimum(source, size - 1.0)  # a window of less than a pixel may begin beyond the last centre
    pixels = tf.range(size, dtype=tf.float32)
    pixels = tf.where(flip[:, None], size - 1.0 - pixels, pixels)
    return tf.maximum(1.0 - tf.abs(source[:, :, None] - pixels[:, None, :]), 0.0)


def jitter_colours(planes, draws, config: AugmentationConfig):
    """Colour jitter in random order, then greyscale: [n, 3, h, w] -> [n, h, w, 3] in [0, 1].

    Values are clipped once, at the end.
    """
    spread = 2.0 * draws[:, _FACTORS : _FACTORS + 4] - 1.0
    jitter = tf.cast(draws[:, _JITTER] < config.jitter_probability, tf.float32)[:, None]
    factors = 1.0 + spread[:, :3] * 0.8 * config.strength * jitter  # brightness, contrast, saturation
    hue = spread[:, 3] * 0.2 * config.strength * jitter[:, 0]
    order = tf.argsort(draws[:, _ORDER : _ORDER + 4], axis=1)  # order[:, t] is what comes t-th; 3 is hue
    grey = tf.cast(draws[:, _GREY] < config.grey_probability, tf.float32)

    nothing = tf.ones_like(hue)
    before = after = (nothing, 0.0 * nothing, 0.0 * nothing)
    hue_done = tf.zeros_like(hue, tf.bool)
    for turn in range(4):
        hue_done |= order[:, turn] == 3
        chosen = tf.one_hot(order[:, turn], 3)
        now = 1.0 + chosen * (factors - 1.0)
        before = _blend(before, tf.where(hue_done[:, None], 1.0, now))
        after = _blend(after, tf.where(hue_done[:, None], now, 1.0))
    after = _saturate(after, 1.0 - grey)
    channels = _affine(tf.unstack(planes, axis=1), before)
    channels = _affine(shift_hue(channels, hue[:, None, None]), after)
    return tf.clip_by_value(tf.stack(channels, axis=-1), 0.0, 1.0)


# A colour map (a, s, k) stands for  y = a x + s luma(x) + k mean(luma(x)),  a, s, k float32 [n]; brightness,
# contrast and saturation take such a map to another one.


def _blend(colour_map, factors):
    """The map followed by brightness, contrast and saturation by `factors` [n, 3] (1 leaves it)."""
    brightness, contrast, saturation = tf.unstack(factors, axis=1)
    a, s, k = (brightness * term for term in colour_map)
    mean = a + s + k
    a, s, k = contrast * a, contrast * s, contrast * k + (1.0 - contrast) * mean
    return _saturate((a, s, k), saturation)


def _saturate(colour_map, factor):
    """The map followed by a blend with the greyscale picture; factor 0 leaves grey."""
    a, s, k = colour_map
    return factor * a, factor * s + (1.0 - factor) * (a + s), k


def _affine(channels, colour_map):
    """Applies a colour map to three planes [n, h, w]."""
    a, s, k = (term[:, None, None] for term in colour_map)
    luma = sum(weight * channel for weight, channel in zip(_LUMA, channels, strict=True))
    offset = s * luma + k * tf.reduce_mean(luma, axis=(1, 2), keepdims=True)
    return [a * channel + offset for channel in channels]


def shift_hue(channels, shift):
    """Turns the hue of HSV by `shift` of the colour circle, value and chroma kept.

    Args:
      channels: red, green and blue, each [n, h, w] of any range.
      shift: [n, 1, 1], in colour circles.

    Returns:
      The three planes.
    """
    red, green, blue = channels
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    scale = tf.math.divide_no_nan(tf.ones_like(chroma), chroma)
    hue = tf.where(
        value == red,
        (green - blue) * scale,
        tf.where(value == green, 2.0 + (blue - red) * scale, 4.0 + (red - green) * scale),
    )
    hue += 6.0 * shift  # in sextants of the circle

    def channel(offset):
        sextant = tf.math.floormod(offset + hue, 6.0)
        return value - chroma * tf.clip_by_value(tf.minimum(sextant, 4.0 - sextant), 0.0, 1.0)

    return [channel(5.0), channel(3.0), channel(1.0)]
