"""One Gaussian per (class, rotation) pair, fitted in one pass over the embeddings of the training images.

References: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3; Ledoit and Wolf, "A well-conditioned estimator
for large-dimensional covariance matrices", Journal of Multivariate Analysis 88 (2004).
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.views import ROTATIONS

JITTER = 1e-9  # added to every diagonal; keeps the covariance of a collapsed network invertible
# Up to this number of classes, one product covers all rotations: fewer operations, four times the memory.
_MAX_CLASSES_AT_ONCE = 8


class ClassConditionalGaussians:
    """Gaussians on L2-normalized embeddings, one per (class, rotation) pair.

    Args:
      means: float32 [R, C, D], array, tensor or variable; R is 4, or 1 for a network that knows no rotations.
      whitenings: float32 [R, C, D, D], array, tensor or variable: W, triangular, with W W' the inverse covariance.
    """

    def __init__(self, means, whitenings):
        self.means = means
        self.whitenings = whitenings

    @classmethod
    def fit(
        cls, embeddings, labels, rotations, *, num_classes: int, shrinkage="ledoit_wolf"
    ) -> ClassConditionalGaussians:
        """Fit all Gaussians to embeddings in memory.

        Args:
          embeddings: float [n, D], normalized.
          labels: int [n], 0 to num_classes - 1.
          rotations: int [n], 0 to 3.
          num_classes: the number of classes C.
          shrinkage: "ledoit_wolf" (the estimate of scikit-learn's LedoitWolf); a number s in [0, 1] for
            (1 - s) S + s trace(S) / D I with the unbiased covariance S; None for S alone. 1e-9 is added to the
            diagonal of each covariance.

        Raises:
          UsageError: a (class, rotation) pair has fewer than two embeddings, one is not finite, or an argument is out
            of range.
        """
        batch = (embeddings, labels, rotations)
        return cls.fit_batches([batch], num_classes=num_classes, shrinkage=shrinkage)

    @classmethod
    def fit_batches(
        cls, batches: Iterable, *, num_classes: int, num_rotations: int = ROTATIONS, shrinkage="ledoit_wolf"
    ) -> ClassConditionalGaussians:
        """Fit all Gaussians in one pass over batches; memory does not grow with the number of images.

        Args:
          batches: (embeddings float [n, D], labels int [n], rotations int [n]) tuples, see `fit`.
          num_classes: see `fit`.
          num_rotations: the number R of rotations, 4 or 1.
          shrinkage: see `fit`.

        Raises:
          UsageError: see `fit`.
        """
        if not (
            shrinkage in ("ledoit_wolf", None)
            or (isinstance(shrinkage, numbers.Real) and 0.0 <= float(shrinkage) <= 1.0)
        ):
            raise UsageError(f"shrinkage must be ledoit_wolf, None or 0 to 1. Received: {shrinkage!r}")
        moments: dict[tuple[int, int], _Moments] = {}
        for embeddings, labels, rotations in batches:
            _update(moments, np.asarray(embeddings, np.float64), labels, rotations, (num_classes, num_rotations))
        means, whitenings = [], []
        for rotation in range(num_rotations):
            for label in range(num_classes):
                group = moments.get((label, rotation))
                if group is None or group.count < 2:
                    raise UsageError(
                        f"Every class needs at least two embeddings in every rotation. Received: "
                        f"{group.count if group else 0} of class {label}, rotation {rotation}"
                    )
                covariance = group.covariance(shrinkage)
                if not np.all(np.isfinite(covariance)):
                    raise UsageError(f"The embeddings of class {label} are not all finite numbers")
                means.append(group.mean())
                whitenings.append(_whitening(covariance))
        shape = (num_rotations, num_classes, len(means[0]))
        stacked = np.reshape(np.asarray(means, np.float32), shape)
        return cls(stacked, np.reshape(np.asarray(whitenings, np.float32), (*shape, shape[-1])))

    def distances(self, embeddings, rotations):
        """Compute the Mahalanobis distances to the Gaussians of each embedding's rotation.

        Args:
          embeddings: float [..., n, D], normalized.
          rotations: int [n], 0 to 3, the rotation of every embedding; known when a graph is built.

        Returns:
          float32 [..., n, C].
        """
        embeddings, rotations = tf.cast(embeddings, tf.float32), np.asarray(rotations)
        if not rotations.size:
            return tf.zeros([*embeddings.shape[:-1], self.means.shape[1]])
        present, counts = np.unique(rotations, return_counts=True)
        if np.all(np.diff(rotations) >= 0) and np.all(np.diff(present) == 1) and len(set(counts)) == 1:
            return self._distances_of_groups(embeddings, present)
        groups = [np.flatnonzero(rotations == rotation) for rotation in present]
        parts = [
            self._distances_of_groups(tf.gather(embeddings, rows, axis=-2), [rotation])
            for rows, rotation in zip(groups, present, strict=True)
        ]
        return tf.gather(tf.concat(parts, -2), np.argsort(np.concatenate(groups)), axis=-2)

    def distances_to_all(self, embeddings):
        """Compute the Mahalanobis distances of embeddings to the Gaussians of every rotation.

        Args:
          embeddings: float [..., n, D], normalized.

        Returns:
          float32 [..., n, R, C].
        """
        embeddings = tf.cast(embeddings, tf.float32)
        flat = tf.reshape(embeddings, [1, -1, embeddings.shape[-1]])
        distances = tf.transpose(mahalanobis(flat, self.means, self.whitenings), (1, 0, 2))
        return tf.reshape(distances, tf.concat([tf.shape(embeddings)[:-1], distances.shape[1:]], 0))

    def log_determinants(self):
        """Return the logarithm of the determinant of every covariance, float32 [R, C]."""
        diagonals = tf.linalg.diag_part(tf.convert_to_tensor(self.whitenings))
        return -2.0 * tf.reduce_sum(tf.math.log(tf.abs(diagonals)), axis=-1)

    def _distances_of_groups(self, embeddings, rotations):
        """Compute the distances of embeddings [..., n, D], equally large groups of consecutive rotations in order."""
        groups, per_group = len(rotations), embeddings.shape[-2] // len(rotations)
        rows = slice(rotations[0], rotations[-1] + 1)
        # One product for all embeddings of a rotation: when a single image is scored, every operation counts.
        by_image = tf.reshape(embeddings, [-1, groups, per_group, embeddings.shape[-1]])
        by_rotation = tf.reshape(tf.transpose(by_image, (1, 0, 2, 3)), [groups, -1, embeddings.shape[-1]])
        distances = mahalanobis(by_rotation, self.means[rows], self.whitenings[rows])
        classes = distances.shape[-1]
        by_image = tf.transpose(tf.reshape(distances, [groups, -1, per_group, classes]), (1, 0, 2, 3))
        return tf.reshape(by_image, tf.concat([tf.shape(embeddings)[:-1], [classes]], 0))


def mahalanobis(embeddings, means, whitenings):
    """Compute Mahalanobis distances to all Gaussians of a rotation, for several rotations.

    Args:
      embeddings: float32 [R, m, D], m embeddings per rotation, or [1, m, D], the same for all.
      means: float32 [R, C, D].
      whitenings: float32 [R, C, D, D].

    Returns:
      float32 [R, m, C].
    """
    rotations, classes = means.shape[:2]
    at_once = rotations if classes <= _MAX_CLASSES_AT_ONCE else 1
    parts: list[tf.Tensor] = []
    for first in range(0, rotations, at_once):
        rows = slice(first, first + at_once)
        with tf.control_dependencies(parts[-1:]):  # one after the other, to save memory
            own = embeddings if embeddings.shape[0] == 1 else embeddings[rows]
            centred = own[:, None] - means[rows, :, None]
            parts.append(tf.transpose(tf.norm(tf.matmul(centred, whitenings[rows]), axis=-1), (0, 2, 1)))
    return tf.concat(parts, 0)


class _Moments:
    """Running sums of one group's embeddings x, of y = x - mean of the first batch, which keeps their digits."""

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
        """Return the sum of (x - mean)(x - mean)'."""
        return self.outer - np.outer(self.sum, self.sum) / self.count

    def fourth_moment(self):
        """Return the sum of |x - mean|^4, expanded into the running sums."""
        m = self.sum / self.count
        m2, n = m @ m, self.count
        mixed = 4.0 * (m @ self.outer @ m) - 4.0 * (m @ self.squared_norm_times_y)
        return self.fourth + mixed + n * m2**2 + 2.0 * m2 * np.trace(self.outer) - 4.0 * n * m2**2

    def covariance(self, shrinkage):
        if shrinkage is None:
            return self.scatter() / (self.count - 1)
        if shrinkage == "ledoit_wolf":
            # Ledoit and Wolf shrink the maximum-likelihood covariance; numpy.cov gives the unbiased one.
            covariance = self.scatter() / self.count
            shrinkage = self.ledoit_wolf_shrinkage(covariance)
        else:
            covariance = self.scatter() / (self.count - 1)
        target = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return (1.0 - shrinkage) * covariance + shrinkage * target

    def ledoit_wolf_shrinkage(self, covariance):
        """Return the intensity b^2 / d^2 of Ledoit and Wolf (2004), lemma 3.2 to 3.4."""
        dimension = len(covariance)
        squared = np.sum(covariance**2)
        spread = squared - np.trace(covariance) ** 2 / dimension
        error = (self.fourth_moment() / self.count - squared) / self.count
        return float(np.clip(error / spread, 0.0, 1.0)) if spread > 0.0 else 0.0


def _update(moments, embeddings, labels, rotations, limits: tuple[int, int]) -> None:
    """Add a batch to the moments of its (class, rotation) groups."""
    labels, rotations = np.asarray(labels), np.asarray(rotations)
    if embeddings.ndim != 2 or not labels.shape == rotations.shape == embeddings.shape[:1]:
        raise UsageError(
            "Embeddings [n, D] need one label and one rotation each. Received: "
            f"{embeddings.shape}, {labels.shape}, {rotations.shape}"
        )
    for name, values, end in zip(("labels", "rotations"), (labels, rotations), limits, strict=True):
        if len(values) and not (values.min() >= 0 and values.max() < end):
            raise UsageError(f"{name} must be 0 to {end - 1}. Received: {values.min()} to {values.max()}")
    pairs = labels.astype(np.int64) * ROTATIONS + rotations
    for pair in np.unique(pairs):
        x = embeddings[pairs == pair]
        moments.setdefault(divmod(int(pair), ROTATIONS), _Moments(x)).update(x)


def _whitening(covariance):
    """Return W, triangular, with |W'(z - mean)| the distance: the transposed inverse of the Cholesky factor."""
    eye = np.eye(len(covariance))
    try:
        factor = np.linalg.cholesky(covariance + JITTER * eye)
    except np.linalg.LinAlgError:
        # Rounding left an eigenvalue below -1e-9, far below the spread of the data.
        values, vectors = np.linalg.eigh(covariance)
        _, factor = np.linalg.qr((vectors / np.sqrt(np.maximum(values, 0.0) + JITTER)).T)
        return factor.T
    return np.linalg.solve(factor, eye).T
