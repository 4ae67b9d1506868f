"""SimCLR's augmentation, batched, on the device, with stateless random numbers.

Rotation, flip and random resized crop are two batched matrix products (`crop_and_resize` has no XLA kernel);
brightness, contrast, saturation and greyscale are three factors a picture before the hue shift and three after it
(`jitter_colours`). On a CPU every pass over the pixels costs as much as the next, so there are few.

Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020
(arXiv:2002.05709), appendix A; torchvision's definitions of the colour factors.
"""

from __future__ import annotations

import math

import tensorflow as tf

from mcl_tf.config import AugmentationConfig
from mcl_tf.utils.stateless_random import uniform

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL and torchvision
_TRIES = 10  # crops drawn until one fits, as torchvision
# Places in a view's vector of random numbers.
_FLIP, _LEFT, _TOP, _JITTER, _GREY, _FACTORS, _ORDER, _CROP = 0, 1, 2, 3, 4, 5, 9, 13
_DRAWS = _CROP + 2 * _TRIES


def augment(images, rotations, *, seed, step, places, total, config: AugmentationConfig):
    """Turns pictures into instances and gives two independent augmentations of each.

    Args:
      images: float32 [m, s, s, 3] in [0, 1], upright.
      rotations: int32 [n], 0 to 3, n a multiple of m: the quarter turns counter-clockwise of the instances,
        n / m consecutive ones of every picture.
      seed, step: integers; with `places` all that the random numbers depend on.
      places: int32 [n], the instances' places in the global batch, so that they get the same augmentation
        however many replicas share it.
      total: the number of instances in the global batch.
      config: probabilities and strength.

    Returns:
      float32 [2 n, s, s, 3] in [0, 1]: the first views of all, then the second.
    """
    key = tf.stack([tf.cast(seed, tf.int64), tf.cast(step, tf.int64)])
    draws = tf.reshape(uniform([total, 2, _DRAWS], key), [-1, _DRAWS])
    draws = tf.gather(draws, tf.concat([2 * places, 2 * places + 1], 0))
    # Both products of the crop are one matrix a picture in this order of the axes.
    upright, transposed = tf.transpose(images, (0, 1, 3, 2)), tf.transpose(images, (0, 2, 3, 1))
    count, instances = tf.shape(images)[0], tf.size(rotations)
    sources = tf.range(instances) // (instances // count) + tf.where(rotations % 2 == 1, count, 0)
    lines = tf.gather(tf.concat([upright, transposed], 0), tf.tile(sources, [2]))
    return jitter_colours(turn_and_crop(lines, tf.tile(rotations, [2]), draws, config), draws, config)


def turn_and_crop(lines, rotations, draws, config: AugmentationConfig):
    """Rotation, random flip (left-right in the upright picture) and random resized crop, bilinear.

    Args:
      lines: float32 [n, s, 3, s], rows, channels, columns; transposed where the rotation is odd.
      rotations: int32 [n], 0 to 3.
      draws: float32 [n, _DRAWS] in [0, 1).
      config: probability of a flip, smallest area of a crop.

    Returns:
      float32 [n, s, 3, s].
    """
    size = lines.shape[1]
    area = config.crop_min_area + draws[:, _CROP : _CROP + _TRIES] * (1.0 - config.crop_min_area)
    aspect = tf.exp((2.0 * draws[:, _CROP + _TRIES :] - 1.0) * math.log(4.0 / 3.0))
    wide, high = tf.sqrt(area * aspect), tf.sqrt(area / aspect)
    fits = tf.cast((wide <= 1.0) & (high <= 1.0), tf.float32)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)  # the whole picture's width if none fits
    wide = tf.minimum(tf.gather(wide, first, batch_dims=1), 1.0)
    high = tf.minimum(tf.gather(high, first, batch_dims=1), 1.0)

    # A quarter turn counter-clockwise is a transposition and a mirroring of the rows, a half turn two mirrorings.
    flip = draws[:, _FLIP] < config.flip_probability
    sideways = rotations % 2 == 1
    mirror_rows = ((rotations == 1) | (rotations == 2)) ^ (flip & sideways)
    mirror_columns = (rotations >= 2) ^ (flip & ~sideways)
    rows = _resampling(size, high, draws[:, _TOP], mirror_rows)
    columns = _resampling(size, wide, draws[:, _LEFT], mirror_columns)
    lines = tf.matmul(tf.reshape(lines, [-1, size * 3, size]), columns, transpose_b=True)
    lines = tf.matmul(rows, tf.reshape(lines, [-1, size, 3 * size]))
    return tf.reshape(lines, [-1, size, 3, size])


def _resampling(size: int, fraction, offset, mirror):
    """Bilinear interpolation of a window back to `size` pixels as a matrix [n, size, size].

    The window covers `fraction` of the axis, placed by `offset` in [0, 1); pixels beyond its edge repeat the
    edge. With `mirror` the axis is mirrored first.
    """
    window = fraction * size
    start = offset * (size - window)
    target = (tf.range(size, dtype=tf.float32) + 0.5) * fraction[:, None] - 0.5
    source = start[:, None] + tf.clip_by_value(target, 0.0, tf.maximum(window[:, None] - 1.0, 0.0))
    source = tf.minimum(source, size - 1.0)  # a window of less than a pixel may begin beyond the last centre
    source = tf.where(mirror[:, None], size - 1.0 - source, source)
    return tf.nn.relu(1.0 - tf.abs(source[:, :, None] - tf.range(size, dtype=tf.float32)))


def jitter_colours(lines, draws, config: AugmentationConfig):
    """Colour jitter in random order, then greyscale: [n, h, 3, w] -> [n, h, w, 3] in [0, 1].

    Values are clipped once, at the end. A picture is the sum of its mean luma, of what its pixels' lumas differ
    from that, and of what its colours differ from their pixels' lumas. Brightness, contrast, saturation and
    greyscale do nothing but scale the three: only which of them come before the hue shift matters.
    """
    before, after, shift = _scales(draws, config)
    (chromas, lumas, means), (chromas2, lumas2, means2) = before, after
    height, width = lines.shape[1], lines.shape[3]
    channels = [tf.reshape(lines[:, :, channel], [-1, height * width]) for channel in range(3)]
    value, chroma, shares = _turn_hue(channels, shift)
    luma, darker = _luma(channels), chroma * _luma(shares)
    turned_luma = value - darker
    mean, turned_mean = (tf.reduce_mean(x, axis=1, keepdims=True) for x in (luma, turned_luma))
    # Scaled, a colour c is  chromas c + (lumas - chromas) luma + (means - lumas) mean;  of this the turn changes c
    # alone, and then it is scaled again.
    scale = chromas2 * chromas
    mean_between = chromas * turned_mean + (means - chromas) * mean
    constant = lumas2 * (means - lumas) * mean + (means2 - lumas2) * mean_between
    greys = (lumas2 - chromas2) * chromas * turned_luma + lumas2 * (lumas - chromas) * luma + constant
    grey, coloured = scale * value + greys, scale * chroma
    colours = tf.minimum(tf.nn.relu(tf.stack([grey - coloured * share for share in shares])), 1.0)
    # Stacking along the last axis would take several times as long.
    return tf.reshape(tf.transpose(colours, (1, 2, 0)), [-1, height, width, 3])


def _scales(draws, config: AugmentationConfig):
    """Scales float32 [n, 1] of a picture's chroma, luma and mean before and after the hue shift, and the shift."""
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


def shift_hue(channels, shift):
    """Turns the hue of HSV by `shift` of the colour circle, value and chroma kept.

    Args:
      channels: red, green and blue, of one shape and any range.
      shift: in colour circles, of a shape that fits theirs.

    Returns:
      The three planes.
    """
    half = (shift - tf.round(shift)) / 2.0
    for _ in range(2):
        value, chroma, shares = _turn_hue(channels, half)
        channels = [value - chroma * share for share in shares]
    return channels


def _turn_hue(channels, shift):
    """Turns the hue by at most a third of the circle, which is more than the jitter ever asks for.

    Returns:
      (value, chroma / 6, shares): the turned channels are value - chroma / 6 * share, shares in [0, 6].
    """
    red, green, blue = channels
    value, lowest = tf.maximum(red, tf.maximum(green, blue)), tf.minimum(red, tf.minimum(green, blue))
    chroma = value - lowest
    # From red the hue goes a sixth of the circle while one of the others rises to red, the next while red falls to
    # the third, the last while that one rises. No conditions: on a CPU they cost as much as all the rest.
    sixths = tf.add_n([green, blue, chroma]) - (red + lowest)
    side = tf.sign(green - blue + 1e-30)  # not 0, for cyan is half a circle away
    hue = side * sixths * tf.math.divide_no_nan(6.0, chroma) + 36.0 * shift  # the circle has 36 units here

    def share(away):
        # Within a sixth of the circle from the opposite of its hue a channel is lowest, from a third on highest.
        return tf.nn.relu6(12.0 - tf.abs(tf.abs(away) - 18.0))

    return value, chroma / 6.0, [share(hue), share(hue - 12.0), share(hue + 12.0)]
