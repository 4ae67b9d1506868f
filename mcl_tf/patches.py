"""The local score of an encoder: the features of its middle stages, under one Gaussian per place.

Reference: Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization",
ICPR workshops 2021 (arXiv:2011.08785).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

DIMENSION = 100  # of the features of a place; the paper draws as many of the channels
_REDUCTION = 8  # a place is at least so many pixels wide
_MAX_SIDE = 32  # places; the covariances of 32 x 32 places take 40 MB
_STAGES = 2
_JITTER = 1e-6  # of the mean variance; keeps the covariance of equal images invertible
_BLUR = (0.0625, 0.25, 0.375, 0.25, 0.0625)  # smoothing of a map along each axis
_SEED = 0


def middle_stages(maps, image_size: int) -> list:
    """Return the feature maps behind the local score: the two largest whose places are wide enough.

    Args:
      maps: symbolic feature maps [n, h, w, c], largest first, see `embeddings.stage_maps`.
      image_size: side of the images in pixels.
    """
    limit = min(-(-image_size // _REDUCTION), _MAX_SIDE)
    return [features for features in maps if 2 <= features.shape[1] <= limit][:_STAGES]


@tf.keras.utils.register_keras_serializable("mcl_tf")
class PatchFeatures(tf.keras.layers.Layer):
    """Joins feature maps into one vector per place.

    Every map is normalized to length 1 per place and brought to the sides of the first one. A random projection, the
    same for all encoders of a width, keeps at most `DIMENSION` dimensions.

    Args:
      **kwargs: arguments of `tf.keras.layers.Layer`.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})

    def build(self, input_shape):
        """Draw the projection."""
        width = sum(int(shape[-1]) for shape in input_shape)
        self.projection = None
        if width > DIMENSION:
            drawn = np.random.default_rng([_SEED, *b"patches"]).normal(size=(width, DIMENSION))
            # Orthogonal columns keep distances as well as independent ones, with less variance.
            self.projection = tf.constant(np.linalg.qr(drawn)[0], tf.float32)
        super().build(input_shape)

    def call(self, maps):
        """Map a list of float [n, h, w, c], largest first, to float32 [n, h, w, d]."""
        sides = maps[0].shape[1:3]
        maps = [tf.math.l2_normalize(tf.cast(features, tf.float32), axis=-1) for features in maps]
        features = tf.concat([tf.image.resize(each, sides) for each in maps], axis=-1)
        return features if self.projection is None else features @ self.projection

    def compute_output_shape(self, input_shape):
        """Return the shape of the result."""
        width = sum(int(shape[-1]) for shape in input_shape)
        return (*input_shape[0][:3], min(width, DIMENSION))

    @classmethod
    def from_config(cls, config):
        """Create a layer from the result of `get_config`."""
        return cls(**{name: value for name, value in config.items() if name not in ("dtype", "autocast")})


class PatchGaussians(tf.keras.layers.Layer):
    """One Gaussian per place, of all normal images, plain and mirrored and turned back, whatever their class.

    Args:
      side: number of places per row and column.
      dimension: number of dimensions d of the features.
      **kwargs: arguments of `tf.keras.layers.Layer`.
    """

    def __init__(self, side: int, dimension: int, **kwargs):
        super().__init__(name="patches", dtype="float32", autocast=False, **kwargs)
        self.side = side
        shape = (side * side, dimension)
        for name, size in (("means", shape), ("whitenings", (*shape, dimension))):
            weight = self.add_weight(name=name, shape=size, initializer="zeros", trainable=False, dtype="float32")
            setattr(self, name, weight)
        self.built = True

    @property
    def bytes_per_image(self) -> int:
        """The memory that the features of one image take when its distances are computed, and their copies."""
        return 16 * int(np.prod(self.means.shape))

    def call(self, features, flips):
        """Compute the distances of every place.

        Args:
          features: float32 [n, V, side, side, d], of upright views.
          flips: list of V bools, whether a view is flipped left-right.

        Returns:
          float32 [n, side, side], averaged over the views, which are turned back, and smoothed; higher for more
          anomalous places.
        """
        upright = _turned_back(features, flips)
        by_place = tf.transpose(tf.reshape(upright, [-1, *self.means.shape]), (1, 0, 2))
        distances = tf.norm(tf.matmul(by_place - self.means[:, None], tf.convert_to_tensor(self.whitenings)), axis=-1)
        places = tf.reshape(tf.transpose(distances), [-1, len(flips), self.side, self.side])
        return _blur(tf.reduce_mean(places, axis=1))

    def score(self, places):
        """Return the score float32 [n] of maps float32 [n, side, side]: their largest distance."""
        return tf.reduce_max(places, axis=(1, 2))

    def moments(self) -> PatchMoments:
        """Return empty sums, for `fit`."""
        return PatchMoments(*self.means.shape)

    def fit(self, moments: PatchMoments) -> None:
        """Set the Gaussians from the sums over normal images.

        The covariance of a place is drawn to the mean of all places, as if by d more images.
        """
        count, dimension = moments.count, self.means.shape[1]
        means = moments.sum / count
        covariances = moments.outer / count - means[:, :, None] * means[:, None]
        common = covariances.mean(axis=0)
        share = count / (count + dimension)
        spread = max(np.trace(common) / dimension, 1e-12)
        covariances = share * covariances + (1.0 - share) * common + _JITTER * spread * np.eye(dimension)
        factors = np.linalg.cholesky(covariances)
        whitenings = np.linalg.solve(factors, np.broadcast_to(np.eye(dimension), factors.shape))
        self.means.assign(means)
        self.whitenings.assign(whitenings.transpose(0, 2, 1))


class PatchMoments:
    """Running sums of the features x of every place, and of x x'.

    Args:
      places: number of places.
      dimension: number of dimensions d of the features.
    """

    def __init__(self, places: int, dimension: int):
        self.count = 0
        self.sum = np.zeros((places, dimension))
        self.outer = np.zeros((places, dimension, dimension))

    def update(self, features, flips) -> None:
        """Add the features float [n, V, h, w, d] of upright views; `flips` tells which are flipped left-right."""
        upright = _turned_back(features, flips).numpy().astype(np.float64)
        by_place = upright.reshape(-1, *self.sum.shape).transpose(1, 0, 2)
        self.count += by_place.shape[1]
        self.sum += by_place.sum(axis=1)
        self.outer += by_place.transpose(0, 2, 1) @ by_place


def _turned_back(features, flips):
    """Flip the maps [n, V, h, w, d] of flipped views back."""
    views = [features[:, view, :, ::-1] if flip else features[:, view] for view, flip in enumerate(flips)]
    return tf.stack(views, axis=1)


def _blur(places):
    """Smooth maps [n, h, w]; beyond the edges they are mirrored."""
    kernel, border = tf.constant(_BLUR), [len(_BLUR) // 2] * 2
    places = tf.pad(places, [[0, 0], border, border], "SYMMETRIC")[..., None]
    places = tf.nn.conv2d(places, kernel[:, None, None, None], 1, "VALID")
    return tf.nn.conv2d(places, kernel[None, :, None, None], 1, "VALID")[..., 0]
