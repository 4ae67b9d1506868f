"""Heat maps: where an image differs from normal ones, at its own size, in words and as a picture."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy import ndimage

from mcl_tf import views

UNUSUAL = (2.5, 6.0)  # standard deviations; few places of a normal image are above the first value
_OPACITY = 0.75
_GRID = 16  # places per side behind a map of gradients


def at_own_size(maps, sides, resize: str):
    """Bring maps from the square that the scorer sees to the size of the images.

    Args:
      maps: float32 [n, s, s].
      sides: int32 [2], height h and width w of the images.
      resize: how the images were brought into the square, see `views.prepare`.

    Returns:
      float32 [n, h, w]. What "crop" has cut off has the lowest value of all maps.
    """
    sides = tf.convert_to_tensor(sides, tf.int32)
    if resize == "pad":
        (row, column), (height, width) = map(tf.unstack, views.place_in_square(sides, maps.shape[1], resize))
        maps = maps[:, row : row + height, column : column + width]
    inner = tf.repeat(tf.reduce_min(sides), 2) if resize == "crop" else sides
    resized = tf.image.resize(maps[..., None], inner, antialias=True)[..., 0]
    if resize == "crop":
        before = (sides - inner) // 2
        padding = tf.stack([before, sides - inner - before], axis=1)
        lowest = tf.reduce_min(tf.pad(tf.reshape(maps, [-1]), [[0, tf.cast(tf.size(maps) == 0, tf.int32)]]))
        resized = tf.pad(resized, tf.concat([[[0, 0]], padding], axis=0), constant_values=lowest)
    return resized


def from_gradient(gradient):
    """Return a map of the influence of places on a score.

    Args:
      gradient: float32 [n, s, s, c], derivative of the score with respect to the image.

    Returns:
      float32 [n, s, s]: absolute values, averaged over neighbouring pixels, in standard deviations over the places of
      the image.
    """
    size = gradient.shape[1]
    gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)  # a distance of 0 has no derivative
    strength = tf.reduce_mean(tf.abs(gradient), axis=-1, keepdims=True)
    # The derivative of a single pixel is mostly noise.
    coarse = tf.image.resize(strength, [min(_GRID, size)] * 2, antialias=True)
    maps = tf.image.resize(coarse, [size, size], "bicubic")[..., 0]
    mean = tf.reduce_mean(maps, axis=[1, 2], keepdims=True)
    return (maps - mean) / (tf.math.reduce_std(maps, axis=[1, 2], keepdims=True) + 1e-12)


def place_of(heat) -> str:
    """Return where a map is highest, and the share of the image there, in words, e.g. "upper left, 3 % of the image".

    Args:
      heat: float [h, w].
    """
    heat = np.asarray(heat)
    limit = (np.median(heat) + heat.max()) / 2.0
    regions, _ = ndimage.label(heat >= limit)
    region = regions == regions.flat[heat.argmax()]
    share = 100.0 * region.mean()
    if share > 50.0:
        return "the whole image"
    thirds = [int(3.0 * (center + 0.5) / side) for center, side in zip(_center(region), heat.shape, strict=True)]
    row, column = ("upper", "middle", "lower")[thirds[0]], ("left", "center", "right")[thirds[1]]
    name = "center" if (row, column) == ("middle", "center") else f"{row} {column}"
    return f"{name}, {'less than 1' if share < 1.0 else round(share)} % of the image"


def _center(region) -> list[float]:
    return [float(indices.mean()) for indices in np.nonzero(region)]


def overlay(image, heat, span: tuple[float, float] = UNUSUAL) -> np.ndarray:
    """Lay the colours of a heat map over the grey levels of an image.

    Args:
      image: uint8 [h, w, 3].
      heat: float [h, w].
      span: the heat of the first and the last colour.

    Returns:
      uint8 [h, w, 3].
    """
    from matplotlib import colormaps

    share = np.clip((heat - span[0]) / (span[1] - span[0]), 0.0, 1.0)[..., None]
    colours = colormaps["inferno"](share[..., 0])[..., :3] * 255.0
    grey = image.mean(-1, keepdims=True)
    return np.round(grey + _OPACITY * share * (colours - grey)).astype(np.uint8)
