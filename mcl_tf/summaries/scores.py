"""Metrics, score histograms and precision-recall curves of one evaluation."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from tensorboard.plugins.pr_curve import summary as pr_curve

from mcl_tf.summaries.event_file import EventFile

_LEVELS = 101  # thresholds of a precision-recall curve
_TITLES = {"one_view": "one view", "sei": "SEI"}


def write_scores(file: EventFile, step: int, test_scores, at_threshold: dict[str, float] | None = None) -> None:
    """Write one evaluation.

    Args:
      file: where it is written to.
      step: the number of optimizer steps.
      test_scores: a `scored_test.TestScores`; without anomalies, there is the histogram of normal images alone.
      at_threshold: shares of images above the threshold, see `experiment.make_report`; None without a threshold.
    """

    def write():
        for name, value in quality(test_scores.metrics()).items():
            tf.summary.scalar(f"quality/{name}", value)
        for name, value in (at_threshold or {}).items():
            tf.summary.scalar(f"threshold/{name}", value)
        for name, chosen in (("normal", ~test_scores.is_anomaly), ("anomalous", test_scores.is_anomaly)):
            if chosen.any():
                tf.summary.histogram(f"scores/{name}", test_scores.scores[chosen])
        if test_scores.is_anomaly.any():
            for name, scores in (("one_view", test_scores.one_view), ("sei", test_scores.scores)):
                _write_precision_recall(name, step, test_scores.is_anomaly, scores)

    file.record(step, write)


def quality(metrics: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return {name of a curve: value} for the result of `TestScores.metrics`."""
    if not metrics:
        return {}
    ensemble = metrics["self_ensemble"]
    return {
        "auroc_one_view": metrics["one_view"]["auroc"],
        "auroc_sei": ensemble["auroc"],
        "average_precision_sei": ensemble["aupr_anomaly"],
        "fpr_at_95_tpr_sei": ensemble["fpr_at_95_tpr"],
    }


def precision_recall(is_anomaly, scores) -> np.ndarray:
    """Count at thresholds that rise by the same share of all images, because TensorBoard expects them to be in [0, 1].

    Args:
      is_anomaly: bool [n], with both values present.
      scores: float [n], higher for anomalies.

    Returns:
      float64 [6, 101]: true positives, false positives, true negatives, false negatives, precision, recall. Column i
      counts an image as an anomaly if its score is at least the i % quantile of all scores.
    """
    is_anomaly, scores = np.asarray(is_anomaly, bool), np.asarray(scores, np.float64)
    levels = np.quantile(scores, np.linspace(0.0, 1.0, _LEVELS), method="higher")
    positives, negatives = int(is_anomaly.sum()), int((~is_anomaly).sum())
    found = positives - np.searchsorted(np.sort(scores[is_anomaly]), levels)
    flagged = negatives - np.searchsorted(np.sort(scores[~is_anomaly]), levels)
    # The image with the highest score is flagged at every level, so that nothing is divided by 0.
    return np.stack(
        [found, flagged, negatives - flagged, positives - found, found / (found + flagged), found / positives]
    ).astype(np.float64)


def _write_precision_recall(name: str, step: int, is_anomaly, scores) -> None:
    text = "Anomalies are the positives. A threshold is the share of all test images that score below it."
    summary = pr_curve.raw_data_pb(
        f"anomalies/{name}",
        *precision_recall(is_anomaly, scores),
        num_thresholds=_LEVELS,
        display_name=_TITLES[name],
        description=text,
    )
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step)
