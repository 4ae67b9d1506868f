"""One Gaussian a (class, rotation) pair, fitted in one pass over the training embeddings.

References: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3; Ledoit and Wolf, "A well-conditioned
estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88 (2004).
"""

from __future__ import annotations

import numbers

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.views import ROTATIONS

# Classes up to which one product takes all rotations: fewest operations, four times the memory.
_AT_ONCE = 8
JITTER = 1e-9  # added to every diagonal; keeps a collapsed network's covariance invertible


class _Moments:
    """Running sums of one group's embeddings x, taken of y = x - first batch's mean to keep their digits."""

    def __init__(self, x):
        dimension = x.shape[1]
        self.shift = x.mean(axis=0)
        self.count = 0
        self.sum = np.zeros(dimension)
        self.outer = np.zeros((dimension, dimension))
        self.squared_norm_times_y = np.zeros(dimension)
        self.fourth = 0.0

    def update(self, x):
        y = x - self.shift
        squared_norm = np.einsum("nd,nd->n", y, y)
        self.count += len(y)
        self.sum += y.sum(axis=0)
        self.outer += y.T @ y
        self.squared_norm_times_y += squared_norm @ y
        self.fourth += squared_norm @ squared_norm

    def mean(self):
        return self.shift + self.sum / self.count

    def scatter(self):
        """Sum of (x - mean)(x - mean)'."""
        return self.outer - np.outer(self.sum, self.sum) / self.count

    def fourth_moment(self):
        """Sum of |x - mean|^4, expanded into the running sums."""
        m = self.sum / self.count
        m2, n = m @ m, self.count
        mixed = 4.0 * (m @ self.outer @ m) - 4.0 * (m @ self.squared_norm_times_y)
        return self.fourth + mixed + n * m2**2 + 2.0 * m2 * np.trace(self.outer) - 4.0 * n * m2**2

    def covariance(self, shrinkage):
        if shrinkage is None:
            return self.scatter() / (self.count - 1)
        if shrinkage == "ledoit_wolf":
            # Ledoit and Wolf shrink the maximum-likelihood covariance; numpy.cov's is the unbiased one.
            covariance = self.scatter() / self.count
            shrinkage = self.ledoit_wolf_shrinkage(covariance)
        else:
            covariance = self.scatter() / (self.count - 1)
        target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return (1.0 - shrinkage) * covariance + shrinkage * target

    def ledoit_wolf_shrinkage(self, covariance):
        """The intensity of Ledoit and Wolf (2004), lemma 3.2 to 3.4: b^2 / d^2."""
        dimension = len(covariance)
        squared = np.sum(covariance**2)
        spread = squared - np.trace(covariance) ** 2 / dimension
        error = (self.fourth_moment() / self.count - squared) / self.count
        return float(np.clip(error / spread, 0.0, 1.0)) if spread > 0.0 else 0.0


class GaussianFitter:
    """Collects embeddings batch by batch; memory grows with classes and dimensions, not with pictures.

    Args:
      num_classes: the number of classes.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self._groups: dict[tuple[int, int], _Moments] = {}

    def update(self, embeddings, labels, rotations) -> None:
        """Adds embeddings float [n, D] with labels int [n] below `num_classes` and rotations int [n], 0 to 3."""
        embeddings = np.asarray(embeddings, np.float64)
        labels, rotations = np.asarray(labels), np.asarray(rotations)
        if embeddings.ndim != 2 or not labels.shape == rotations.shape == embeddings.shape[:1]:
            raise UsageError(
                "Embeddings [n, D] need one label and one rotation each. Received: "
                f"{embeddings.shape}, {labels.shape}, {rotations.shape}"
            )
        for name, values, end in (("labels", labels, self.num_classes), ("rotations", rotations, ROTATIONS)):
            if len(values) and not (values.min() >= 0 and values.max() < end):
                raise UsageError(f"{name} must be 0 to {end - 1}. Received: {values.min()} to {values.max()}")
        pairs = labels.astype(np.int64) * ROTATIONS + rotations
        for pair in np.unique(pairs):
            x = embeddings[pairs == pair]
            moments = self._groups.setdefault(divmod(int(pair), ROTATIONS), _Moments(x))
            moments.update(x)

    def gaussians(self, shrinkage="ledoit_wolf") -> ClassConditionalGaussians:
        """The Gaussians of everything seen so far.

        Args:
          shrinkage: "ledoit_wolf", a number in [0, 1], or None for the plain unbiased covariance.

        Raises:
          UsageError: a (class, rotation) pair has fewer than two embeddings, or one is not finite.
        """
        if not (
            shrinkage in ("ledoit_wolf", None)
            or (isinstance(shrinkage, numbers.Real) and 0.0 <= float(shrinkage) <= 1.0)
        ):
            raise UsageError(f"shrinkage must be ledoit_wolf, None or 0 to 1. Received: {shrinkage!r}")
        means, whitenings = [], []
        for rotation in range(ROTATIONS):
            for label in range(self.num_classes):
                moments = self._groups.get((label, rotation))
                if moments is None or moments.count < 2:
                    raise UsageError(
                        f"Every class needs at least two embeddings in every rotation. Received: "
                        f"{moments.count if moments else 0} of class {label}, rotation {rotation}"
                    )
                covariance = moments.covariance(shrinkage)
                if not np.all(np.isfinite(covariance)):
                    raise UsageError(f"The embeddings of class {label} are not all finite numbers")
                means.append(moments.mean())
                whitenings.append(_whitening(covariance))
        dimension = means[0].shape[0]
        shape = (ROTATIONS, self.num_classes, dimension)
        return ClassConditionalGaussians(np.reshape(means, shape), np.reshape(whitenings, (*shape, dimension)))


def _whitening(covariance):
    """A matrix W with |W'(z - mean)| the Mahalanobis distance: the transposed inverse of Cholesky's factor."""
    eye = np.eye(len(covariance))
    try:
        factor = np.linalg.cholesky(covariance + JITTER * eye)
    except np.linalg.LinAlgError:
        # Rounding left an eigenvalue below -1e-9, far below the spread of the data.
        values, vectors = np.linalg.eigh(covariance)
        return vectors / np.sqrt(np.maximum(values, 0.0) + JITTER)
    return np.linalg.solve(factor, eye).T


class ClassConditionalGaussians:
    """Gaussians on L2-normalised embeddings, one a (class, rotation) pair.

    Args:
      means: float [4, C, D].
      whitenings: float [4, C, D, D], W with W W' the inverse covariance.
    """

    def __init__(self, means, whitenings):
        self.means = np.asarray(means, np.float32)
        self.whitenings = np.asarray(whitenings, np.float32)

    @classmethod
    def fit(
        cls, embeddings, labels, rotations, *, num_classes: int, shrinkage="ledoit_wolf"
    ) -> ClassConditionalGaussians:
        """Fits all Gaussians to embeddings at hand; `GaussianFitter` does it batch by batch.

        Args:
          embeddings: float [n, D], normalised.
          labels: int [n], 0 to num_classes - 1.
          rotations: int [n], 0 to 3.
          num_classes: the number of classes C.
          shrinkage: "ledoit_wolf" (the estimate of scikit-learn's LedoitWolf); a number s in [0, 1] for
            (1 - s) S + s trace(S) / D I with the unbiased covariance S; None for S alone. 1e-9 is added to
            the diagonal of each.
        """
        fitter = GaussianFitter(num_classes)
        fitter.update(embeddings, labels, rotations)
        return fitter.gaussians(shrinkage)

    def distances(self, embeddings, rotations):
        """Mahalanobis distances to the Gaussians of each embedding's rotation.

        Args:
          embeddings: float [n, D], normalised.
          rotations: int [n], 0 to 3.

        Returns:
          float32 [n, num_classes].
        """
        embeddings = tf.cast(embeddings, tf.float32)
        rows = tf.dynamic_partition(tf.range(tf.shape(embeddings)[0]), tf.cast(rotations, tf.int32), ROTATIONS)
        parts = [
            mahalanobis(tf.gather(embeddings, own)[None], self.means[turn, None], self.whitenings[turn, None])[0]
            for turn, own in enumerate(rows)
        ]
        return tf.dynamic_stitch(rows, parts)


def mahalanobis(embeddings, means, whitenings):
    """Mahalanobis distances to all Gaussians of a rotation, for all rotations.

    Args:
      embeddings: float32 [R, m, D], m of every rotation.
      means: float32 [R, C, D].
      whitenings: float32 [R, C, D, D].

    Returns:
      float32 [R, m, C].
    """
    rotations, classes = means.shape[:2]
    together = rotations if classes <= _AT_ONCE else 1
    parts: list[tf.Tensor] = []
    for first in range(0, rotations, together):
        own = slice(first, first + together)
        with tf.control_dependencies(parts[-1:]):  # one after the other, for the sake of memory
            centred = embeddings[own, None] - means[own, :, None]
            parts.append(tf.transpose(tf.norm(tf.matmul(centred, whitenings[own]), axis=-1), (0, 2, 1)))
    return tf.concat(parts, 0)
