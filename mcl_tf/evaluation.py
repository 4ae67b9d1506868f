"""Figures and pictures of a result, on the test split."""

from __future__ import annotations

import csv
import pathlib

import numpy as np
from sklearn import metrics

REPORTED_TPR = 0.95


def figures(is_anomaly, scores) -> dict[str, float]:
    """How well scores tell anomalies from normal pictures.

    Args:
      is_anomaly: bool [n], both values present.
      scores: float [n], higher for anomalies.

    Returns:
      auroc; aupr_anomaly and aupr_normal (average precision with anomalies or normals as positives);
      fpr_at_95_tpr (share of normals flagged at the threshold that finds 95 % of the anomalies). All in [0, 1].
    """
    is_anomaly, scores = np.asarray(is_anomaly, bool), np.asarray(scores, np.float64)
    # All points are kept: scikit-learn would drop those on straight lines, the one asked for among them.
    false_positives, true_positives, _ = metrics.roc_curve(is_anomaly, scores, drop_intermediate=False)
    return {
        "auroc": float(metrics.roc_auc_score(is_anomaly, scores)),
        "aupr_anomaly": float(metrics.average_precision_score(is_anomaly, scores)),
        "aupr_normal": float(metrics.average_precision_score(~is_anomaly, -scores)),
        "fpr_at_95_tpr": float(false_positives[np.argmax(true_positives >= REPORTED_TPR)]),
    }


def write_scores(path, identifiers, labels, is_anomaly, scores) -> None:
    """Writes one row a test picture: id, label, is_anomaly (0 or 1), score."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "is_anomaly", "score"])
        for row in zip(identifiers, labels, is_anomaly, scores, strict=True):
            writer.writerow([row[0], row[1], int(row[2]), f"{row[3]:.6g}"])


def example_places(is_anomaly, scores, count: int = 10) -> dict[str, np.ndarray]:
    """Places of the pictures worth a look, by title: extremes of all, and the worst mistakes on either side."""
    order = np.argsort(scores, kind="stable")
    anomalous = np.asarray(is_anomaly, bool)[order]
    return {
        "lowest scores": order[:count],
        "highest scores": order[::-1][:count],
        "normal, scored highest": order[~anomalous][::-1][:count],
        "anomalous, scored lowest": order[anomalous][:count],
    }


def plot_report(path, title, is_anomaly, one_view, scores, threshold, examples) -> None:
    """Draws the result: scores, ROC curves and rows of pictures.

    Args:
      path: PNG file to write.
      title: heading.
      is_anomaly: bool [n].
      one_view, scores: float [n], without and with self-ensemble.
      threshold: score above which a picture is an anomaly.
      examples: {row's title: list of (picture uint8 [s, s, 3], class name)}.
    """
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    is_anomaly, scores = np.asarray(is_anomaly, bool), np.asarray(scores)
    figure = Figure(figsize=(10, 3.4 + 1.25 * len(examples)), layout="constrained")
    figure.suptitle(title)
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.2, 1.25 * len(examples)))[:, 0]
    left, right = top.subplots(1, 2)
    _plot_histogram(left, is_anomaly, scores, threshold)
    for name, values in (("one view", one_view), ("self-ensemble", scores)):
        false_positives, true_positives, _ = metrics.roc_curve(is_anomaly, values)
        area = metrics.auc(false_positives, true_positives)
        right.plot(false_positives, true_positives, label=f"{name}, AUROC {area:.3f}")
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    right.set(xlabel="normals flagged", ylabel="anomalies found", aspect="equal")
    right.legend(loc="lower right", frameon=False)
    columns = max(len(row) for row in examples.values())
    axes = bottom.subplots(len(examples), columns, squeeze=False)
    for row, (heading, pictures) in zip(axes, examples.items(), strict=True):
        for axis in row:
            axis.axis("off")
        row[0].set_title(heading, loc="left", fontsize=9)
        for axis, (picture, name) in zip(row, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.text(0.5, -0.04, name, transform=axis.transAxes, ha="center", va="top", fontsize=7)
    figure.savefig(pathlib.Path(path), dpi=120)


def _plot_histogram(axes, is_anomaly, scores, threshold):
    # The tail is cut at the 99.5th percentile, or a few far outliers leave one bar.
    edges = np.linspace(scores.min(), max(np.quantile(scores, 0.995), threshold), 50)
    for name, chosen, colour in (("normal", ~is_anomaly, "C0"), ("anomalous", is_anomaly, "C3")):
        clipped = np.minimum(scores[chosen], edges[-1])
        axes.hist(clipped, edges, density=True, alpha=0.6, color=colour, label=name)
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label="threshold")
    axes.set(xlabel="anomaly score", ylabel="density")
    axes.legend(frameon=False)
