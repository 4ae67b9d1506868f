"""Histograms, curves and bars as HTML and SVG, which take their colours from `page.css` and are moved by `page.js`.

Curves are paths that are stretched to their place; labels are text beside them, which keeps its size on a phone.
"""

from __future__ import annotations

import numpy as np

from mcl_tf.report import rates
from mcl_tf.report.markup import name, text

_SIDE = 1000  # units of a path, in either direction
_SHOWN_CLASSES = 15  # the others are folded


def histogram(is_anomaly, scores, axis: rates.Axis, counted: dict) -> str:
    """Return the histograms of normal and anomalous scores with the lines of the thresholds.

    Args:
      is_anomaly: bool [n].
      scores: float [n].
      axis: see `rates.make_axis`.
      counted: see `rates.count_above`.
    """
    normal, anomalous = rates.histograms(is_anomaly, scores, axis)
    highest = max(normal.max(), anomalous.max())
    areas = [
        f'<path class="area {kind}" d="{_steps(heights / highest)}"/>'
        for kind, heights in (("normal", normal), ("anomalous", anomalous))
    ]
    values = rates.ticks(axis)
    marks = [_tick("x", place, f"{value:g}") for place, value in zip(axis.positions(values), values, strict=True)]
    own = counted["positions"][counted["own"]]
    lines = (
        f'<i class="line own" style="left:{_place(own)}"></i><i class="line" id="line" style="left:{_place(own)}"></i>'
    )
    compressed = " (compressed far from the normal scores)" if axis.spread is not None else ""
    label = f"Histograms of the scores of {'normal images and anomalies' if is_anomaly.any() else 'normal images'}"
    return _plot("histogram", label, "".join(areas), lines + "".join(marks), f"anomaly score{compressed}")


def roc(is_anomaly, one_view, scores, counted: dict) -> str:
    """Return the ROC curves with one view and with self-ensemble inference, and the operating point."""
    paths = _line("guide", np.array([[0.0, 0.0], [1.0, 1.0]]))
    paths += _line("one-view", rates.roc(is_anomaly, one_view)) + _line("ensemble", rates.roc(is_anomaly, scores))
    normal, anomalous = (counted[kind][counted["own"]] for kind in ("normal", "anomalous"))
    point = _dot("roc-point", normal / counted["totals"][0], anomalous / counted["totals"][1])
    return _curve(
        "ROC curve: share of anomalies found over share of normal images flagged",
        paths,
        point,
        "normal images flagged",
        "anomalies found",
    )


def precision_recall(is_anomaly, scores, counted: dict) -> str:
    """Return the precision-recall curve of the anomalies and the operating point."""
    points = rates.precision_recall(is_anomaly, scores)
    # The precision stays until the next anomaly is found.
    corners = np.stack([np.repeat(points[:, 0], 2)[:-1], np.repeat(points[:, 1], 2)[1:]], axis=1)
    base = counted["totals"][1] / sum(counted["totals"])
    paths = _line("guide", np.array([[0.0, base], [1.0, base]])) + _line("ensemble", corners)
    normal, anomalous = (counted[kind][counted["own"]] for kind in ("normal", "anomalous"))
    flagged = normal + anomalous
    point = _dot("pr-point", anomalous / counted["totals"][1], anomalous / flagged if flagged else None)
    return _curve(
        "Precision-recall curve: share of anomalies among the flagged images over share of anomalies found",
        paths,
        point,
        "anomalies found (recall)",
        "precision",
    )


def class_bars(classes: list[dict]) -> str:
    """Return a table of the AUROC of every anomalous class with bars.

    Args:
      classes: see `evaluation.class_metrics`.
    """
    rows = [_class_row(row) for row in classes]
    shown, folded = rows[:_SHOWN_CLASSES], rows[_SHOWN_CLASSES:]
    table = _class_table(shown)
    if folded:
        table += f"<details><summary>{len(folded)} more classes</summary>{_class_table(folded)}</details>"
    return table


def _class_table(rows: list[str]) -> str:
    titles = ("class", "AUROC", "95&nbsp;% interval", "images")
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    return f'<table class="classes"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _class_row(row: dict) -> str:
    area, low, high = row["auroc"], row["auroc_low"], row["auroc_high"]
    whisker = f'<b style="left:{_place(low)};width:{_place(high - low)}"></b>'
    bar = f'<i class="bar" aria-hidden="true"><i style="width:{_place(area)}"></i>{whisker}</i>'
    cells = "".join(
        f"<td>{cell}</td>" for cell in (f"{bar}{area:.4f}", f"{low:.3f} to {high:.3f}", f"{row['images']:,}")
    )
    return f'<tr><th scope="row">{name(row["class"])}</th>{cells}</tr>'


def _curve(label: str, paths: str, point: str, x_name: str, y_name: str) -> str:
    marks = [_tick(axis, value, f"{value:g}") for axis in "xy" for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return _plot("curve", label, paths, point + "".join(marks), x_name, y_name)


def _plot(kind: str, label: str, paths: str, marks: str, x_name: str, y_name: str = "") -> str:
    svg = f'<svg viewBox="0 0 {_SIDE} {_SIDE}" preserveAspectRatio="none" aria-hidden="true">{paths}</svg>'
    side = f'<span class="name y">{text(y_name)}</span>' if y_name else ""
    names = f'{side}<span class="name x">{text(x_name)}</span>'
    return f'<div class="plot {kind}" role="img" aria-label="{text(label)}">{svg}{marks}{names}</div>'


def _steps(heights) -> str:
    """Return the outlines of the blocks of a histogram with heights from 0 to 1."""
    edges = np.linspace(0.0, 1.0, len(heights) + 1)
    filled = np.flatnonzero(heights)
    blocks = np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1)
    return "".join(_block(edges[block[0] : block[-1] + 2], heights[block]) for block in blocks if len(block))


def _block(edges, heights) -> str:
    xs = np.repeat(edges, 2)
    return _path(np.stack([xs, np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])], axis=1)) + "Z"


def _line(kind: str, points) -> str:
    return f'<path class="{kind}" d="{_path(points)}"/>'


def _path(points) -> str:
    """Return the path through points float [p, 2] from 0 to 1, upwards."""
    scaled = np.round(np.stack([points[:, 0], 1.0 - points[:, 1]], axis=1) * _SIDE, 1)
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in scaled)


def _dot(identifier: str, x: float, y: float | None) -> str:
    place = "display:none" if y is None else f"left:{_place(x)};bottom:{_place(y)}"
    return f'<i class="dot" id="{identifier}" style="{place}"></i>'


def _tick(axis: str, place: float, label: str) -> str:
    side = "left" if axis == "x" else "bottom"
    return f'<span class="tick {axis}" style="{side}:{_place(place)}">{text(label)}</span>'


def _place(share: float) -> str:
    return f"{100.0 * share:.2f}%"
