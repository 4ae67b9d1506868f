"""Calibration: from scores of held-out normal images to a threshold and p-values that keep their promise.

Held-out images and new normal images are exchangeable, because neither took part in training. A new normal image is
therefore above the k-th smallest of m held-out scores with a probability of at most 1 - k / (m + 1), whatever the
distribution of the scores.

References: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", Springer 2005 (conformal prediction);
Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 51 (2023; arXiv:2104.08279).
"""

from __future__ import annotations

import math
import re

import numpy as np
from sklearn import metrics

from mcl_tf.errors import UsageError

TARGETS = "f1, youden or fpr=RATE with a rate from 0 to 1"


def threshold_at(scores, pass_rate: float) -> float:
    """Return the threshold that a new normal image exceeds with a probability of at most 1 - pass_rate.

    It is the conformal quantile, the ceil((m + 1) pass_rate)-th smallest of m scores. If m is too small for the rate,
    it is the largest score, and the probability is `promised_rate`. An image is an anomaly if its score is above it.

    Args:
      scores: float [m], scores of held-out normal images, m at least 1.
      pass_rate: the share of new normal images that should not be flagged, 0 to 1.
    """
    ordered = np.sort(np.asarray(scores, np.float64))
    rank = math.ceil((len(ordered) + 1) * pass_rate - 1e-9)  # 20 * 0.95 is not quite 19 in floating point
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])


def promised_rate(count: int, pass_rate: float) -> float:
    """Return the largest probability that a new normal image is flagged by `threshold_at`.

    Args:
      count: the number m of held-out images.
      pass_rate: see `threshold_at`.
    """
    return max(1.0 - pass_rate, 1.0 / (count + 1))


def images_needed(pass_rate: float) -> int:
    """Return the number of held-out images that a pass rate needs: 19 for 0.95, 99 for 0.99; 1 for a rate of 1."""
    return 1 if pass_rate >= 1.0 else max(1, math.ceil(pass_rate / (1.0 - pass_rate) - 1e-9))


def p_values(held_out, scores) -> np.ndarray:
    """Return conformal p-values: the probability that a normal image scores at least as high.

    Args:
      held_out: float [m], scores of held-out normal images.
      scores: float [n].

    Returns:
      float32 [n], (1 + number of held-out scores at least as high) / (m + 1); never 0.
    """
    held_out = np.sort(np.asarray(held_out, np.float32))
    at_least = len(held_out) - np.searchsorted(held_out, np.asarray(scores, np.float32), side="left")
    return ((1 + at_least) / np.float32(len(held_out) + 1)).astype(np.float32)


def threshold_for(scores, is_anomaly, target: str) -> float:
    """Return the threshold that suits labelled examples best.

    Args:
      scores: float [n].
      is_anomaly: bool [n], with both values present.
      target: "f1" for the largest F1 score of the anomalies, "youden" for the largest difference of true and false
        positive rate, or e.g. "fpr=0.01" for the largest true positive rate at a false positive rate of at most 1 %.

    Raises:
      UsageError: an unknown target, or examples of one kind only.
    """
    scores, is_anomaly = np.asarray(scores, np.float64), np.asarray(is_anomaly, bool)
    if is_anomaly.all() or not is_anomaly.any():
        raise UsageError(
            "A threshold from examples needs normal images and anomalies. Received: "
            f"{np.sum(~is_anomaly)} normal images and {np.sum(is_anomaly)} anomalies"
        )
    false_rate, true_rate, values = metrics.roc_curve(is_anomaly, scores, drop_intermediate=False)
    limit = re.fullmatch(r"fpr=(\d*\.?\d+(?:e-?\d+)?)", target)
    if target == "f1":
        found, flagged = true_rate * is_anomaly.sum(), false_rate * (~is_anomaly).sum()
        best = np.argmax(2.0 * found / (found + flagged + is_anomaly.sum()))
    elif target == "youden":
        best = np.argmax(true_rate - false_rate)
    elif limit and 0.0 <= float(limit.group(1)) <= 1.0:
        best = np.flatnonzero(false_rate <= float(limit.group(1)) + 1e-12)[-1]
    else:
        raise UsageError(f"target must be {TARGETS}. Received: {target}")
    # The curve flags scores of at least `values`; the threshold lies half-way to the next lower score.
    lower = scores[scores < values[best]]
    upper = scores[scores >= values[best]]
    if not len(upper):
        return float(scores.max())
    return float((upper.min() + lower.max()) / 2.0) if len(lower) else float(np.nextafter(upper.min(), -np.inf))
