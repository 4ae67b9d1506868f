"""One training against several datasets of anomalies: a row per dataset."""

from __future__ import annotations

from typing import Any

import numpy as np

from mcl_tf import evaluation
from mcl_tf.tables.files import Table

OTHER_CLASSES = "other classes"  # the row of the anomalies in the dataset of the normal images
_METRICS = ("auroc", "aupr_anomaly", "aupr_normal", "fpr_at_95_tpr")


def by_class_and_dataset(task, test_scores) -> dict[str, Any]:
    """Return what a report says of several classes and of several datasets of anomalies.

    Args:
      task: the `Task` of the run.
      test_scores: its `TestScores`.

    Returns:
      With several classes, `accuracy`: the share of normal test images whose nearest class is their own. With several
      parts of anomalies, `outliers`, see `measure`.
    """
    found: dict[str, Any] = {}
    is_normal = ~test_scores.is_anomaly
    if len(task.class_names) > 1 and test_scores.nearest_classes is not None and is_normal.any():
        nearest = np.array(task.class_names)[test_scores.nearest_classes]
        found["accuracy"] = float(np.mean(nearest[is_normal] == test_scores.labels[is_normal]))
    if len(task.test_parts) > 2:  # normal images with the other classes, and more than one dataset
        scores = {"one_view": test_scores.one_view, "self_ensemble": test_scores.scores}
        found["outliers"] = measure(test_scores.is_anomaly, scores, task.test_parts)
    return found


def measure(is_anomaly, scores: dict[str, Any], parts) -> list[dict]:
    """Measure how well scores separate the anomalies of every dataset from the normal images.

    Args:
      is_anomaly: bool [n]; normal images are in the first part alone.
      scores: {name: float [n]}.
      parts: (name, number of images) of the parts of the test split, in its order, see `Task.test_parts`.

    Returns:
      For every part with anomalies its `name`, the number of `anomalies`, and for every score its metrics, see
      `evaluation.compute_metrics`.
    """
    is_anomaly, rows, start = np.asarray(is_anomaly), [], 0
    for index, (name, count) in enumerate(parts):
        chosen = is_anomaly & (np.arange(len(is_anomaly)) >= start) & (np.arange(len(is_anomaly)) < start + count)
        start += count
        if not chosen.any():
            continue
        kept = chosen | ~is_anomaly
        metrics = {key: evaluation.compute_metrics(is_anomaly[kept], values[kept]) for key, values in scores.items()}
        rows.append({"name": name if index else OTHER_CLASSES, "anomalies": int(chosen.sum()), **metrics})
    return rows


def make_table(report: dict) -> Table:
    """Return the table of a run whose report has `outliers`, the result of `measure`, and perhaps `accuracy`."""
    rows = [
        (row["name"], row["anomalies"], row["one_view"]["auroc"], *(row["self_ensemble"][name] for name in _METRICS))
        for row in report["outliers"]
    ]
    titles = ("AUROC", "AUPR of anomalies", "AUPR of normal images", "FPR at 95 % TPR")
    columns = ("anomalies", "images", "AUROC, one view", *(f"{title}, SEI" for title in titles))
    record = {name: report[name] for name in ("dataset", "normal", "accuracy", "outliers") if name in report}
    title = f"{report['dataset']}, normal: {', '.join(report['normal'])}"
    if "accuracy" in report:
        title += f"; accuracy on normal images {report['accuracy']:.4f}"
    return Table(title, columns, tuple(rows), {"table": "outliers", **record})
