"""Metrics and figures of a result on the test split."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
from sklearn import metrics

from mcl_tf.auroc import auroc_interval
from mcl_tf.errors import printable
from mcl_tf.utils.atomic import atomic_file

REPORTED_TPR = 0.95


def compute_metrics(is_anomaly, scores) -> dict[str, float]:
    """Measure how well scores separate anomalies from normal images.

    Args:
      is_anomaly: bool [n], with both values present.
      scores: float [n], higher for anomalies.

    Returns:
      `auroc`; `auroc_low` and `auroc_high` (its 95 % interval, see `auroc_interval`); `aupr_anomaly` and `aupr_normal`
      (average precision with anomalies or normal images as positives); `fpr_at_95_tpr` (share of normal images flagged
      at the threshold that finds 95 % of the anomalies). All in [0, 1].
    """
    is_anomaly, scores = np.asarray(is_anomaly, bool), np.asarray(scores, np.float64)
    # By default scikit-learn drops points on straight lines, possibly the one asked for.
    false_positives, true_positives, _ = metrics.roc_curve(is_anomaly, scores, drop_intermediate=False)
    _, low, high = auroc_interval(scores[is_anomaly], scores[~is_anomaly])
    return {
        "auroc": float(metrics.roc_auc_score(is_anomaly, scores)),
        "auroc_low": low,
        "auroc_high": high,
        "aupr_anomaly": float(metrics.average_precision_score(is_anomaly, scores)),
        "aupr_normal": float(metrics.average_precision_score(~is_anomaly, -scores)),
        "fpr_at_95_tpr": float(false_positives[np.argmax(true_positives >= REPORTED_TPR)]),
    }


def auroc_text(found: dict[str, float]) -> str:
    """Return the AUROC of `compute_metrics` with its interval as text."""
    return f"{found['auroc']:.4f} (95 % interval {found['auroc_low']:.4f} to {found['auroc_high']:.4f})"


def class_metrics(is_anomaly, labels, scores) -> list[dict[str, Any]]:
    """Measure how well scores separate the anomalies of each class from all normal images.

    Args:
      is_anomaly: bool [n], with both values present.
      labels: strings [n], class names.
      scores: float [n], higher for anomalies.

    Returns:
      One dictionary per class with anomalies, the worst AUROC first: `class`; `images`, the number of its anomalies;
      `auroc`, `auroc_low` and `auroc_high`, see `compute_metrics`.
    """
    is_anomaly, labels, scores = np.asarray(is_anomaly, bool), np.asarray(labels), np.asarray(scores, np.float64)
    found: list[dict[str, Any]] = []
    for name in np.unique(labels[is_anomaly]):
        chosen = scores[is_anomaly & (labels == name)]
        area, low, high = auroc_interval(chosen, scores[~is_anomaly])
        found.append({"class": str(name), "images": len(chosen), "auroc": area, "auroc_low": low, "auroc_high": high})
    return sorted(found, key=lambda row: row["auroc"])


def write_scores(path, identifiers, labels, is_anomaly, scores) -> None:
    """Write a CSV file with one row per test image: id, label, is_anomaly (0 or 1), score.

    Args:
      path: the file.
      identifiers: strings [n].
      labels: strings [n], class names.
      is_anomaly: bool [n].
      scores: float [n].
    """
    with atomic_file(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "is_anomaly", "score"])
        for identifier, label, anomaly, score in zip(identifiers, labels, is_anomaly, scores, strict=True):
            writer.writerow([identifier, label, int(anomaly), f"{score:.9g}"])  # identifies a float32


def example_indices(is_anomaly, scores, count: int = 10) -> dict[str, np.ndarray]:
    """Select images worth a look: the extremes of all scores, and the worst mistakes on either side.

    Args:
      is_anomaly: bool [n].
      scores: float [n].
      count: the maximum number of images per row.

    Returns:
      {title of a row: int indices}; without anomalies, the extremes of all scores alone.
    """
    order = np.argsort(scores, kind="stable")
    anomalous = np.asarray(is_anomaly, bool)[order]
    extremes = {"lowest scores": order[:count], "highest scores": order[::-1][:count]}
    if not anomalous.any():
        return extremes
    return {
        **extremes,
        "normal, scored highest": order[~anomalous][::-1][:count],
        "anomalous, scored lowest": order[anomalous][:count],
    }


def plot_report(path, title, is_anomaly, one_view, scores, threshold, examples) -> None:
    """Draw score histograms, ROC curves, if there are anomalies, and rows of example images.

    Args:
      path: PNG file to write.
      title: the heading.
      is_anomaly: bool [n].
      one_view: float [n], scores with one view.
      scores: float [n], scores with self-ensemble inference.
      threshold: float, the score above which an image is an anomaly.
      examples: {title of a row: list of (image uint8 [s, s, 3], class name)}.
    """
    import matplotlib

    is_anomaly, scores = np.asarray(is_anomaly, bool), np.asarray(scores)
    # Names of classes and folders are text, neither mathematics nor LaTeX, whatever the user's settings are.
    with matplotlib.rc_context({"text.parse_math": False, "text.usetex": False}), atomic_file(path, "wb") as file:
        _draw(title, is_anomaly, one_view, scores, threshold, examples).savefig(file, dpi=120)


def _draw(title, is_anomaly, one_view, scores, threshold, examples):
    """Return the figure of `plot_report`."""
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and may open windows

    figure = Figure(figsize=(10, 3.4 + 1.25 * len(examples)), layout="constrained")
    figure.suptitle(printable(title))
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.2, 1.25 * len(examples)))[:, 0]
    left, right = top.subplots(1, 2)
    _plot_histogram(left, is_anomaly, scores, threshold)
    if is_anomaly.any():
        _plot_curves(right, is_anomaly, {"one view": one_view, "self-ensemble": scores})
    else:
        right.axis("off")
        right.text(0.5, 0.5, "There are no anomalies for the test.", ha="center", transform=right.transAxes)
    _plot_examples(bottom, examples)
    return figure


def _plot_curves(axes, is_anomaly, scores) -> None:
    for name, values in scores.items():
        false_positives, true_positives, _ = metrics.roc_curve(is_anomaly, values)
        area = metrics.auc(false_positives, true_positives)
        axes.plot(false_positives, true_positives, label=f"{name}, AUROC {area:.3f}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="normal images flagged", ylabel="anomalies found", aspect="equal")
    axes.legend(loc="lower right", frameon=False)


def _plot_histogram(axes, is_anomaly, scores, threshold) -> None:
    # The axis ends at the 99.5th percentile; a few far outliers would leave one bar.
    edges = np.linspace(scores.min(), max(np.quantile(scores, 0.995), threshold), 50)
    for name, chosen, colour in (("normal", ~is_anomaly, "C0"), ("anomalous", is_anomaly, "C3")):
        if not chosen.any():
            continue
        clipped = np.minimum(scores[chosen], edges[-1])
        axes.hist(clipped, edges, density=True, alpha=0.6, color=colour, label=name)
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--", label="threshold")
    axes.set(xlabel="anomaly score", ylabel="density")
    axes.legend(frameon=False)


def _plot_examples(figure, examples) -> None:
    columns = max(len(row) for row in examples.values())
    axes = figure.subplots(len(examples), columns, squeeze=False)
    for row, (heading, images) in zip(axes, examples.items(), strict=True):
        for axis in row:
            axis.axis("off")
        row[0].set_title(heading, loc="left", fontsize=9)
        for axis, (image, name) in zip(row, images, strict=False):
            axis.imshow(image, interpolation="nearest")
            options = {"transform": axis.transAxes, "ha": "center", "va": "top", "fontsize": 7}
            axis.text(0.5, -0.04, printable(name), **options)
