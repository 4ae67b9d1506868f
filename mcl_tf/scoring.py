"""Self-ensemble inference: from distances to scores, from scores of normal pictures to a threshold.

A score is higher for more anomalous pictures.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError

METHODS = ("weighted", "mean", "min")


def self_ensemble(distances, method: str = "weighted"):
    """Joins a picture's distances over views and classes into one score.

    Args:
      distances: float [n, V, C], Mahalanobis distance of every view to every class.
      method: "weighted", a class's distances averaged with weights 1 / d, which is their harmonic mean;
        "mean", their sum; "min", the smallest. The smallest over classes is the score.

    Returns:
      scores: float32 [n].
      classes: int32 [n], the class that the minimum picked.

    Raises:
      UsageError: an unknown method.
    """
    distances = tf.cast(distances, tf.float32)
    if method == "weighted":
        # A distance of 0 makes the harmonic mean 0; the floor keeps the division finite.
        inverse = 1.0 / tf.maximum(distances, 1e-12)
        by_class = tf.cast(tf.shape(distances)[1], tf.float32) / tf.reduce_sum(inverse, axis=1)
    elif method == "mean":
        by_class = tf.reduce_sum(distances, axis=1)
    elif method == "min":
        by_class = tf.reduce_min(distances, axis=1)
    else:
        raise UsageError(f"method must be {', '.join(METHODS)}. Received: {method!r}")
    return tf.reduce_min(by_class, axis=1), tf.argmin(by_class, axis=1, output_type=tf.int32)


def threshold_at(scores, pass_rate: float) -> float:
    """The smallest of `scores` (of held-out normal pictures) that at least `pass_rate` of them do not exceed.

    A picture is anomalous if its score is above the threshold.
    """
    return float(np.quantile(np.asarray(scores, np.float64), pass_rate, method="inverted_cdf"))
