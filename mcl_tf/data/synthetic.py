"""Anomalies that need no download: noise, shapes, and normal test images that are taken apart or mixed.

| name | images |
|---|---|
| uniform | every pixel and channel uniform in 0 to 255 |
| gaussian | every pixel and channel normal with mean 127.5 and standard deviation 64, clipped to 0 to 255 |
| blobs | smooth noise, of which the brightest 30 % of every channel remain: shapes with sharp edges on black |
| permuted | normal test images, each with its pixels in an order of its own |
| interp | means of two different normal test images |

There are as many as normal test images, at most 10,000. Every image follows from the name, the seed and its number.
Where normal images have one channel, so does noise.

References: Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure", ICLR 2019 (arXiv:1812.04606), for noise
and blobs; Tack et al., "CSI", NeurIPS 2020 (arXiv:2007.08176), for interpolation.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from scipy import ndimage

from mcl_tf.data.source import Source
from mcl_tf.errors import UsageError

NAMES = ("uniform", "gaussian", "blobs", "permuted", "interp")
_LARGEST = 10_000  # images
_SMOOTHNESS = 1.0 / 12.0  # standard deviation of the blur of blobs, in sides of the image
_BRIGHT = 0.3  # share of a blob image that is not black


class SyntheticSource(Source):
    """Synthetic anomalies as the test split of a dataset with one class, which has the name of the set.

    Args:
      name: one of `NAMES`.
      normal: the normal test images, a dataset of (image uint8 [s, s, 3], label).
      channels: 1 for grey noise, else 3.
      seed: the seed.
    """

    def __init__(self, name: str, normal: tf.data.Dataset, channels: int, seed: int):
        self._normal = normal.map(lambda image, _: image).take(_LARGEST)
        size = self._normal.element_spec.shape[0]
        super().__init__(name, (name,), (size, size, 3))
        self._channels, self._seed = channels, seed

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """See `Source.read`; there is no training split.

        Raises:
          UsageError: there are fewer than two normal test images.
        """
        del split, classes
        size = self.image_shape[0]

        def draw(index, *images):
            image = tf.numpy_function(self._draw, [index, *images], tf.uint8, stateful=False)
            return tf.ensure_shape(image, [size, size, 3]), tf.constant(0, tf.int64)

        return self._inputs.map(draw, tf.data.AUTOTUNE, deterministic=True)

    @functools.cached_property
    def _inputs(self) -> tf.data.Dataset:
        """A dataset of the number of every image and the normal images that it is made of."""
        count = int(self._normal.cardinality())
        count = sum(1 for _ in self._normal) if count < 0 else count
        if count < 2:
            raise UsageError(f"anomaly_dataset {self.name} needs two normal test images. Received: {count}")
        numbers = tf.data.Dataset.range(count)
        if self.name == "permuted":
            return tf.data.Dataset.zip((numbers, self._normal))
        if self.name != "interp":
            return numbers.map(lambda number: (number,))
        order = np.random.default_rng([self._seed, *b"interp"]).permutation(count)
        partners = np.empty(count, np.int64)
        partners[order] = np.roll(order, 1)  # on one circle, so that no image is its own partner
        images = tf.stack(list(self._normal))
        return numbers.map(lambda number: (number, images[number], images[tf.constant(partners)[number]]))

    def _draw(self, index, *images):
        """Return an image uint8 [s, s, 3]."""
        rng = np.random.default_rng([self._seed, *self.name.encode(), int(index)])
        if self.name == "permuted":
            return rng.permutation(images[0].reshape(-1, 3)).reshape(images[0].shape)
        if self.name == "interp":
            return np.round(np.mean(images, axis=0)).astype(np.uint8)
        size = self.image_shape[0]
        noise = _NOISE[self.name](rng, (size, size, self._channels))
        return np.repeat(noise, 3 // self._channels, axis=-1)


def _uniform(rng, shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _gaussian(rng, shape):
    return np.clip(np.round(rng.normal(127.5, 64.0, shape)), 0, 255).astype(np.uint8)


def _blobs(rng, shape):
    blur = _SMOOTHNESS * shape[0]
    field = ndimage.gaussian_filter(rng.normal(size=shape), (blur, blur, 0), mode="wrap")
    edge = np.quantile(field, 1.0 - _BRIGHT, axis=(0, 1))
    height = np.clip((field - edge) / (field.max((0, 1)) - edge), 0.0, 1.0)
    return np.where(field > edge, 128 + 127 * height, 0).astype(np.uint8)


_NOISE = {"uniform": _uniform, "gaussian": _gaussian, "blobs": _blobs}
