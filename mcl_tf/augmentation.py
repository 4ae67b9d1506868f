"""SimCLR's augmentation: batched, on the device, with stateless random numbers.

Rotation, flip and random resized crop are two batched matrix products, because `crop_and_resize` has no XLA kernel.
Brightness, contrast, saturation and greyscale are three factors per image before the hue shift and three after it
(`jitter_colours`), because on a CPU every pass over the pixels costs as much as the next.

Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020
(arXiv:2002.05709), appendix A; the colour factors are defined as in torchvision.
"""

from __future__ import annotations

import math

import tensorflow as tf

from mcl_tf.config import AugmentationConfig
from mcl_tf.utils.stateless_random import uniform

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL and torchvision
_TRIES = 10  # number of crops drawn until one fits, as in torchvision
# Indices into a view's vector of random numbers.
_FLIP, _LEFT, _TOP, _JITTER, _GREY, _FACTORS, _ORDER, _CROP = 0, 1, 2, 3, 4, 5, 9, 13
_DRAWS = _CROP + 2 * _TRIES


def augment(images, rotations, *, seed, step, indices, total, config: AugmentationConfig):
    """Turn images into instances and return two independent augmentations of each.

    Args:
      images: float32 [m, s, s, 3] in [0, 1], upright.
      rotations: int32 [n], 0 to 3, with n a multiple of m: the number of quarter turns counter-clockwise of every
        instance. The n / m instances of an image are consecutive.
      seed: integer. The random numbers depend on seed, step and indices only.
      step: integer, the number of the training step.
      indices: int32 [n], the indices of the instances in the global batch. They get the same augmentation for any
        number of replicas.
      total: int, the number of instances in the global batch.
      config: probabilities and strength.

    Returns:
      float32 [2 n, s, s, 3] in [0, 1]: the first views of all instances, then the second views.
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    draws = tf.reshape(uniform([total, 2, _DRAWS], key), [-1, _DRAWS])
    draws = tf.gather(draws, tf.concat([2 * indices, 2 * indices + 1], 0))
    # In this order of the axes, both products of the crop are one matrix per image.
    upright, transposed = tf.transpose(images, (0, 1, 3, 2)), tf.transpose(images, (0, 2, 3, 1))
    count, instances = tf.shape(images)[0], tf.size(rotations)
    sources = tf.range(instances) // (instances // count) + tf.where(rotations % 2 == 1, count, 0)
    image_rows = tf.gather(tf.concat([upright, transposed], 0), tf.tile(sources, [2]))
    return jitter_colours(turn_and_crop(image_rows, tf.tile(rotations, [2]), draws, config), draws, config)


def turn_and_crop(image_rows, rotations, draws, config: AugmentationConfig):
    """Apply rotation, random flip (left-right in the upright image) and random resized crop (bilinear).

    Args:
      image_rows: float32 [n, s, 3, s], rows, channels, columns; transposed where the rotation is odd.
      rotations: int32 [n], 0 to 3.
      draws: float32 [n, _DRAWS] in [0, 1).
      config: probability of a flip and smallest area of a crop.

    Returns:
      float32 [n, s, 3, s].
    """
    size = image_rows.shape[1]
    area = config.crop_min_area + draws[:, _CROP : _CROP + _TRIES] * (1.0 - config.crop_min_area)
    aspect = tf.exp((2.0 * draws[:, _CROP + _TRIES :] - 1.0) * math.log(4.0 / 3.0))
    wide, high = tf.sqrt(area * aspect), tf.sqrt(area / aspect)
    fits = tf.cast((wide <= 1.0) & (high <= 1.0), tf.float32)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)  # if none fits, the first is cut to the image
    wide = tf.minimum(tf.gather(wide, first, batch_dims=1), 1.0)
    high = tf.minimum(tf.gather(high, first, batch_dims=1), 1.0)

    # A quarter turn counter-clockwise transposes and mirrors the rows; a half turn mirrors rows and columns.
    flip = draws[:, _FLIP] < config.flip_probability
    sideways = rotations % 2 == 1
    mirror_rows = ((rotations == 1) | (rotations == 2)) ^ (flip & sideways)
    mirror_columns = (rotations >= 2) ^ (flip & ~sideways)
    rows = _resampling(size, high, draws[:, _TOP], mirror_rows)
    columns = _resampling(size, wide, draws[:, _LEFT], mirror_columns)
    image_rows = tf.matmul(tf.reshape(image_rows, [-1, size * 3, size]), columns, transpose_b=True)
    image_rows = tf.matmul(rows, tf.reshape(image_rows, [-1, size, 3 * size]))
    return tf.reshape(image_rows, [-1, size, 3, size])


def _resampling(size: int, fraction, offset, mirror):
    """Return the bilinear interpolation of a window back to `size` pixels as matrices [n, size, size].

    The window covers `fraction` of the axis and is placed by `offset` in [0, 1). Pixels beyond its edge repeat the
    edge. With `mirror` the axis is mirrored first.
    """
    window = fraction * size
    start = offset * (size - window)
    target = (tf.range(size, dtype=tf.float32) + 0.5) * fraction[:, None] - 0.5
    source = start[:, None] + tf.clip_by_value(target, 0.0, tf.maximum(window[:, None] - 1.0, 0.0))
    source = tf.minimum(source, size - 1.0)  # a window below one pixel may begin beyond the last centre
    source = tf.where(mirror[:, None], size - 1.0 - source, source)
    return tf.nn.relu(1.0 - tf.abs(source[:, :, None] - tf.range(size, dtype=tf.float32)))


def jitter_colours(image_rows, draws, config: AugmentationConfig):
    """Apply colour jitter in random order, then greyscale.

    An image is the sum of three parts: its mean luma, the difference of every pixel's luma from that mean, and the
    difference of every colour from its pixel's luma. Brightness, contrast, saturation and greyscale only scale these
    parts, so that their order does not matter except relative to the hue shift. Values are clipped once, at the end.

    Args:
      image_rows: float32 [n, h, 3, w] in [0, 1].
      draws: float32 [n, _DRAWS] in [0, 1).
      config: probabilities and strength.

    Returns:
      float32 [n, h, w, 3] in [0, 1].
    """
    before, after, shift = _scales(draws, config)
    (chromas, lumas, means), (chromas2, lumas2, means2) = before, after
    height, width = image_rows.shape[1], image_rows.shape[3]
    channels = [tf.reshape(image_rows[:, :, channel], [-1, height * width]) for channel in range(3)]
    value, chroma, shares = _shift_hue(channels, shift)
    luma, darker = _luma(channels), chroma * _luma(shares)
    shifted_luma = value - darker
    mean, shifted_mean = (tf.reduce_mean(x, axis=1, keepdims=True) for x in (luma, shifted_luma))
    # A scaled colour c is  chromas c + (lumas - chromas) luma + (means - lumas) mean.  The hue shift changes only c;
    # then everything is scaled again.
    scale = chromas2 * chromas
    mean_between = chromas * shifted_mean + (means - chromas) * mean
    constant = lumas2 * (means - lumas) * mean + (means2 - lumas2) * mean_between
    greys = (lumas2 - chromas2) * chromas * shifted_luma + lumas2 * (lumas - chromas) * luma + constant
    grey, coloured = scale * value + greys, scale * chroma
    colours = tf.minimum(tf.nn.relu(tf.stack([grey - coloured * share for share in shares])), 1.0)
    # Stacking along the last axis takes several times as long.
    return tf.reshape(tf.transpose(colours, (1, 2, 0)), [-1, height, width, 3])


def _scales(draws, config: AugmentationConfig):
    """Return the scales of chroma, luma and mean before and after the hue shift, and the shift; float32 [n, 1] each."""
    spread = 2.0 * draws[:, _FACTORS : _FACTORS + 4] - 1.0
    jitter = tf.cast(draws[:, _JITTER, None] < config.jitter_probability, tf.float32)
    factors = 1.0 + spread[:, :3] * 0.8 * config.strength * jitter  # brightness, contrast, saturation
    shift = spread[:, 3:] * 0.2 * config.strength * jitter  # in colour circles
    first = draws[:, _ORDER : _ORDER + 3] <= draws[:, _ORDER + 3 : _ORDER + 4]
    kept = tf.cast(draws[:, _GREY, None] >= config.grey_probability, tf.float32)

    def parts(factors):
        means, contrast, saturation = tf.split(factors, 3, axis=1)
        lumas = means * contrast
        return lumas * saturation, lumas, means

    chromas, lumas, means = parts(tf.where(first, 1.0, factors))
    return parts(tf.where(first, factors, 1.0)), (kept * chromas, lumas, means), shift


def _luma(channels):
    return sum(weight * channel for weight, channel in zip(_LUMA, channels, strict=True))


def _shift_hue(channels, shift):
    """Shifts the hue of HSV by at most a third of the circle; the jitter asks for a fifth at most.

    Args:
      channels: red, green and blue, of one shape.
      shift: in colour circles, of a shape that broadcasts to theirs.

    Returns:
      (value, chroma / 6, shares): the shifted channels are value - chroma / 6 * share, with shares in [0, 6].
    """
    red, green, blue = channels
    value, lowest = tf.maximum(red, tf.maximum(green, blue)), tf.minimum(red, tf.minimum(green, blue))
    chroma = value - lowest
    # The hue is measured from red. In the first sixth of the circle one other channel rises to the value of red, in the
    # second red falls, in the third the last channel rises. Conditions would cost as much as all the rest on a CPU.
    sixths = tf.add_n([green, blue, chroma]) - (red + lowest)
    side = tf.sign(green - blue + 1e-30)  # not 0, because cyan is half a circle away
    hue = side * sixths * tf.math.divide_no_nan(6.0, chroma) + 36.0 * shift  # here the circle has 36 units

    def share(away):
        # A channel is lowest within a sixth of the circle from the opposite of its hue, and highest from a third on.
        return tf.nn.relu6(12.0 - tf.abs(tf.abs(away) - 18.0))

    return value, chroma / 6.0, [share(hue), share(hue - 12.0), share(hue + 12.0)]
