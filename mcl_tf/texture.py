"""The local score: statistics of grey levels and texture at full detail, under one Gaussian.

Defects of a texture can be smaller than anything that survives resizing to the network's input, and a network trained
on crops and colour jitter is blind to brightness. This descriptor needs no training beyond sums over normal images:

- Levels: mean, standard deviation, percentiles and mean gradients of every channel.
- Spectrum, at three scales: patches of 7x7 pixels are whitened by the covariance of all patches. The mean square of
  every whitened component says how much of each pattern an image has. The components of the smallest variance are what
  a linear prediction of a pixel from its neighbours cannot explain.
- Map, at three scales: the mean square over all components at every place, which is the Mahalanobis distance of the
  patch. The logarithm of the smoothed map is standardized per place. Its mean, spread and extremes are part of the
  descriptor, and the maps of the two finest scales show where an image differs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.utils import compat

PATCH = 7  # pixels
SCALES = (1, 4, 16)  # pixels are averaged over blocks of these sides
_BLUR = 2.0  # standard deviation of the smoothing of a map, in its pixels
# Chosen on pasted defects in textiles and solar cells: the finest scale alone had a pixel AUROC of 0.77 and 0.81, two
# scales 0.80 and 0.89, and smoothed 0.83 and 0.92; the coarsest scale adds nothing.
_MAP_SCALES, _MAP_BLUR = 2, 4.0
_PERCENTILES = (0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.0)
_EXTREME = 0.005  # share of the places that are the extremes of a map
_PATCHES = 60_000  # number of patches behind the covariance of a scale
_IMAGES = 300  # number of images behind the covariances and the statistics per place
_PRIOR = 20.0  # statistics per place are drawn to those of all places, as if by so many images
_LEAST_SPREAD = 0.25  # grey levels; images may be constant
_ROUNDING = 1.0 / 12.0  # variance of rounding to grey levels, below which nothing can be measured
_TINY = 1e-6


class TextureDescriptor(tf.keras.layers.Layer):
    """Describes images by their grey levels and texture.

    Args:
      image_size: side of the images in pixels.
      channels: 3, or 1 if the normal images are grey.
      **kwargs: arguments of `tf.keras.layers.Layer`.
    """

    def __init__(self, image_size: int, channels: int, **kwargs):
        super().__init__(name="texture", dtype="float32", autocast=False, **kwargs)
        self.image_size = image_size
        self.channels = channels
        self.scales = [scale for scale in SCALES if image_size // scale > PATCH]
        components = PATCH * PATCH * channels
        self.center = self._constant("center", (channels,))
        self.spread = self._constant("spread", (channels,))
        self.filters, self.biases, self.place_means, self.place_spreads = [], [], [], []
        for scale in self.scales:
            side = image_size // scale - PATCH + 1
            self.filters.append(self._constant(f"filters_{scale}", (PATCH, PATCH, channels, components)))
            self.biases.append(self._constant(f"bias_{scale}", (components,)))
            self.place_means.append(self._constant(f"place_mean_{scale}", (side, side, 1)))
            self.place_spreads.append(self._constant(f"place_spread_{scale}", (side, side, 1)))
        levels = channels * (4 + len(_PERCENTILES))
        self.dimension = levels + len(self.scales) * (components + 4)
        self.descriptor_center = self._constant("descriptor_center", (self.dimension,))
        self.descriptor_spread = self._constant("descriptor_spread", (self.dimension,))
        self.built = True

    @property
    def bytes_per_image(self) -> int:
        """The memory that one image takes when it is described: its squared components, twice."""
        return 8 * self.image_size**2 * PATCH**2 * self.channels

    def _constant(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False, dtype="float32")

    def fit(self, images, seed: int = 0, batch_size: int = 16) -> Iterator[np.ndarray]:
        """Learn the statistics of normal images, of which at most `_IMAGES` are held.

        Args:
          images: uint8 [n, image_size, image_size, 3], an array or `StoredImages`.
          seed: of the patches that are drawn.
          batch_size: number of images processed at a time.

        Returns:
          The descriptors of all n images in their order, batches float32 [m, dimension].
        """
        sample = images[np.linspace(0, len(images) - 1, min(len(images), _IMAGES)).astype(int)]
        pixels = sample.reshape(-1, 3)[::97].astype(np.float64)
        pixels = pixels if self.channels == 3 else pixels.mean(-1, keepdims=True)
        self.center.assign(pixels.mean(0))
        self.spread.assign(np.maximum(pixels.std(0), _LEAST_SPREAD))
        rng = np.random.default_rng([seed, *b"texture"])
        scaled = _in_batches(lambda x: [self._scaled(x, scale) for scale in self.scales], sample, batch_size)
        for index, x in enumerate(scaled):
            self._fit_filters(index, x, rng)
        indices = range(len(self.scales))
        for variable, value in [(v, 0.0) for v in self.place_means] + [(v, 1.0) for v in self.place_spreads]:
            variable.assign(tf.fill(variable.shape, value))
        maps = _in_batches(lambda x: [self._squares_and_map(x, index)[1] for index in indices], sample, batch_size)
        share = len(sample) / (len(sample) + _PRIOR)
        for index, places in enumerate(maps):
            mean, variance = places.mean(0), places.var(0)
            self.place_means[index].assign(share * mean + (1.0 - share) * mean.mean())
            self.place_spreads[index].assign(np.sqrt(share * variance + (1.0 - share) * variance.mean()) + 1e-3)
        self.descriptor_center.assign(tf.zeros(self.dimension))
        self.descriptor_spread.assign(tf.ones(self.dimension))
        (descriptors,) = _in_batches(lambda x: [self.call(x)], sample, batch_size)
        self.descriptor_center.assign(descriptors.mean(0))
        self.descriptor_spread.assign(descriptors.std(0) + 1e-4)
        if len(sample) == len(images):
            return iter([(descriptors - self.descriptor_center.numpy()) / self.descriptor_spread.numpy()])
        return (vectors for (vectors,) in _by_batch(lambda x: [self.call(x)], images, batch_size))

    def _fit_filters(self, index: int, x, rng) -> None:
        """Compute the whitening of random patches of images float32 [n, h, w, c]."""
        count, side, _, channels = x.shape
        places = side - PATCH + 1
        own = min(max(20, _PATCHES // count), places * places)
        rows, columns = rng.integers(0, places, (2, count, own))
        windows = np.lib.stride_tricks.sliding_window_view(x, (PATCH, PATCH), (1, 2))
        patches = windows[np.arange(count)[:, None], rows, columns].transpose(0, 1, 3, 4, 2)
        patches = patches.reshape(-1, PATCH * PATCH * channels).astype(np.float64)
        values, vectors = np.linalg.eigh(np.cov(patches, rowvar=False))
        rounding = _ROUNDING / np.mean(np.square(self.spread.numpy())) / self.scales[index] ** 2
        whitening = vectors / np.sqrt(np.maximum(values, 0.0) + 1e-4 * values.mean() + rounding)
        self.filters[index].assign(whitening.reshape(PATCH, PATCH, channels, -1))
        self.biases[index].assign(-(patches.mean(0) @ whitening))

    def call(self, images):
        """Describe images uint8 [n, image_size, image_size, 3]; return float32 [n, dimension], standardized."""
        images, count = views.without_empty_batch(images)
        parts = [self._levels(self._scaled(images, 1))]
        for index in range(len(self.scales)):
            squares, places = self._squares_and_map(images, index)
            parts += [tf.math.log(tf.reduce_mean(squares, [1, 2]) + _TINY), _map_statistics(places)]
        descriptors = tf.concat(parts, axis=1)
        return ((descriptors - self.descriptor_center) / tf.convert_to_tensor(self.descriptor_spread))[:count]

    def heat_map(self, images):
        """Show where images differ from normal ones.

        Args:
          images: uint8 [n, image_size, image_size, 3].

        Returns:
          float32 [n, image_size, image_size], in standard deviations of the place, the root of the mean square over the
          two finest scales; higher for more anomalous places.
        """
        images, count = views.without_empty_batch(images)
        squares: list = []
        border = PATCH - 1
        padding = [border // 2, border - border // 2]
        for index, scale in enumerate(self.scales[:_MAP_SCALES]):
            if squares and self.image_size // scale < 2 * border:
                continue  # the map would be smaller than what is added at its edges
            # Squared, because what is flatter than normal is anomalous, too.
            places = tf.square(self._squares_and_map(images, index)[1])
            places = tf.pad(places, [[0, 0], padding, padding, [0, 0]], "SYMMETRIC")
            squares.append(tf.image.resize(places, [self.image_size] * 2))
        return _blur(tf.sqrt(tf.add_n(squares) / len(squares)), _MAP_BLUR)[:count, ..., 0]

    def _scaled(self, images, scale: int):
        """Standardize images by all normal ones, and average them over blocks: float32 [n, h, w, c]."""
        x = tf.cast(images, tf.float32)
        x = x if self.channels == 3 else tf.reduce_mean(x, -1, keepdims=True)
        x = (x - self.center) / tf.convert_to_tensor(self.spread)
        return x if scale == 1 else tf.nn.avg_pool2d(x, scale, scale, "VALID")

    def _squares_and_map(self, images, index: int):
        """Return the squared components [n, h, w, d] of all patches of a scale, and their map [n, h, w, 1]."""
        x = self._scaled(images, self.scales[index])
        squares = tf.square(tf.nn.conv2d(x, tf.convert_to_tensor(self.filters[index]), 1, "VALID") + self.biases[index])
        places = tf.math.log(_blur(tf.reduce_mean(squares, -1, keepdims=True)) + _TINY)
        return squares, (places - self.place_means[index]) / tf.convert_to_tensor(self.place_spreads[index])

    def _levels(self, x):
        """Return the statistics of the levels of images float32 [n, h, w, c]."""
        flat = tf.sort(tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]]), axis=1)
        parts = [tf.reduce_mean(flat, axis=1), tf.math.log(tf.math.reduce_std(flat, axis=1) + 1e-2)]
        parts += [flat[:, round(share * (flat.shape[1] - 1))] for share in _PERCENTILES]
        for difference in (x[:, 1:] - x[:, :-1], x[:, :, 1:] - x[:, :, :-1]):
            parts.append(tf.math.log(tf.reduce_mean(tf.abs(difference), axis=[1, 2]) + 1e-3))
        return tf.concat(parts, axis=1)


def is_grey(images) -> bool:
    """Return whether images uint8 [n, h, w, 3] have no colour beyond the traces that JPEG leaves."""
    sample = images[:: max(1, len(images) // 50)].astype(np.int16)
    return bool(np.abs(sample - sample.mean(-1, keepdims=True)).mean() <= 0.5)


def _map_statistics(places):
    """Return mean, log of the spread, and extremes of maps [n, h, w, 1]; float32 [n, 4]."""
    flat = tf.reshape(places, [-1, places.shape[1] * places.shape[2]])
    mean = tf.reduce_mean(flat, axis=1, keepdims=True)
    rest = flat - mean
    count = max(1, round(_EXTREME * flat.shape[1]))
    highest = tf.reduce_mean(tf.math.top_k(rest, count)[0], axis=1)
    lowest = -tf.reduce_mean(tf.math.top_k(-rest, count)[0], axis=1)
    return tf.stack([mean[:, 0], tf.math.log(tf.math.reduce_std(rest, axis=1) + 1e-3), highest, lowest], axis=1)


def _blur(places, deviation: float = _BLUR):
    """Smooth maps [n, h, w, 1] by a Gaussian; beyond the edges they are mirrored."""
    side = places.shape[1]
    radius = min(int(np.ceil(2.5 * deviation)), side - 1)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    places = tf.pad(places, [[0, 0], [radius, radius], [radius, radius], [0, 0]], "SYMMETRIC")
    places = tf.nn.conv2d(places, kernel[:, None, None, None], 1, "VALID")
    return tf.nn.conv2d(places, kernel[None, :, None, None], 1, "VALID")


def _in_batches(function, images, batch_size: int) -> list[np.ndarray]:
    """Apply a function from images to a list of tensors, batch by batch, and join the results."""
    return [np.concatenate(parts) for parts in zip(*_by_batch(function, images, batch_size), strict=True)]


def _by_batch(function, images, batch_size: int) -> Iterator[list[np.ndarray]]:
    """Yield the results of a function from images to a list of tensors, batch by batch."""
    traced = compat.graph(function, [None, *images.shape[1:]])
    for start in range(0, len(images), batch_size):
        yield [part.numpy() for part in traced(tf.constant(images[start : start + batch_size]))]
