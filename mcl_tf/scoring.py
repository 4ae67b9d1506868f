"""Self-ensemble inference: from distances to scores.

A score is higher for more anomalous images.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.errors import UsageError

METHODS = ("weighted", "sum", "min")


def self_ensemble(distances, method: str = "weighted"):
    """Combine the distances of an image over views and classes into one score.

    Args:
      distances: float [n, V, C], Mahalanobis distance of every view to every class.
      method: "weighted" averages the distances of a class with weights 1 / d, which gives their harmonic mean; "sum"
        (the paper's name is "mean", which is accepted, too) adds them; "min" takes the smallest. The score is the
        smallest value over the classes.

    Returns:
      scores: float32 [n].
      classes: int32 [n], the class with the smallest value.

    Raises:
      UsageError: an unknown method.
    """
    distances = tf.cast(distances, tf.float32)
    if method == "weighted":
        # A distance of 0 makes the harmonic mean 0; the floor keeps the division finite.
        inverse = 1.0 / tf.maximum(distances, 1e-12)
        by_class = tf.cast(tf.shape(distances)[1], tf.float32) / tf.reduce_sum(inverse, axis=1)
    elif method in ("sum", "mean"):
        by_class = tf.reduce_sum(distances, axis=1)
    elif method == "min":
        by_class = tf.reduce_min(distances, axis=1)
    else:
        raise UsageError(f"method must be {', '.join(METHODS)}. Received: {method!r}")
    return tf.reduce_min(by_class, axis=1), tf.argmin(by_class, axis=1, output_type=tf.int32)


def ensembles(distances) -> dict[tuple[int, str], np.ndarray]:
    """Return the scores of every ensemble whose views are among those of an image, with every method.

    Args:
      distances: float [n, V, C], see `self_ensemble`, in the order of `views.self_ensemble_views`.

    Returns:
      {(number of views, method): float32 [n]}; with V = 8, for 1, 2, 4 and 8 views.
    """
    distances = tf.convert_to_tensor(distances)
    own = _views(distances.shape[1])
    found = {}
    for count in views.COUNTS:
        if set(_views(count)) <= set(own):
            chosen = tf.gather(distances, [own.index(view) for view in _views(count)], axis=1)
            found.update({(count, method): self_ensemble(chosen, method)[0].numpy() for method in METHODS})
    return found


def _views(count: int) -> list[tuple[int, bool]]:
    """Return rotation and flip of every view."""
    return list(zip(views.view_rotations(count), views.view_flips(count), strict=True))


def likelihood_distances(distances, log_determinants):
    """Make the distances of an image to several classes comparable, as its likelihood under their Gaussians is.

    The density of a Gaussian that is wide is small everywhere, but distances to it are small, too, so that by distances
    alone too many images belong to the widest class.

    Args:
      distances: float [n, V, C], Mahalanobis distance of every view to every class.
      log_determinants: float [V, C], of the covariances of every view's rotation.

    Returns:
      float32 [n, V, C], the square root of d^2 + log-determinant, minus the smallest log-determinant of the view. The
      square is twice the negative log-likelihood, up to a constant of the view.
    """
    offsets = log_determinants - tf.reduce_min(log_determinants, axis=1, keepdims=True)
    return tf.sqrt(tf.square(tf.cast(distances, tf.float32)) + tf.cast(offsets, tf.float32))


def rotation_evidence(distances, rotations, classes):
    """Measure how badly the rotation of an image's views is recognized by the Gaussians.

    An image whose views lie as close to the Gaussians of wrong rotations as to those of their own is unlike the normal
    images, whose rotations the network has learned to tell apart.

    Args:
      distances: float [n, V, R, C], Mahalanobis distance of every view to every rotation and class.
      rotations: int [V], the rotation of every view.
      classes: int [n], the class of every image, see `self_ensemble`.

    Returns:
      float32 [n]: squared distance to the own rotation minus the mean over all rotations, averaged over the views;
      higher for more anomalous images.
    """
    squared = tf.square(tf.cast(tf.gather(distances, classes, axis=3, batch_dims=1), tf.float32))
    own = tf.stack([squared[:, view, rotation] for view, rotation in enumerate(rotations)], axis=1)
    return tf.reduce_mean(own - tf.reduce_mean(squared, axis=2), axis=1)
