"""Writes `report.html` from the results of a run."""

from __future__ import annotations

import json
import string

import numpy as np

from mcl_tf import calibration, evaluation
from mcl_tf.config import Config
from mcl_tf.export import model_card
from mcl_tf.report import figures, rates, sheets
from mcl_tf.report.document import write_document
from mcl_tf.report.markup import name, resource, share, text
from mcl_tf.report.result_table import result_table
from mcl_tf.tables import outliers
from mcl_tf.utils.console import duration


def write_page(path, detector, report: dict, scored, images: dict[int, np.ndarray], seconds: float | None) -> None:
    """Write the page of a run.

    Args:
      path: the HTML file.
      detector: the fitted `AnomalyDetector`.
      report: the content of `metrics.json`.
      scored: the `TestScores` of the images that were scored.
      images: {index: uint8 [s, s, 3]}, at least those of `sheets.sheet_indices`.
      seconds: how long the fit took; None if it is not known.

    Raises:
      OSError: the file cannot be written.
    """
    axis = rates.make_axis(scored.is_anomaly, scored.scores, detector.threshold_)
    counted = rates.count_above(scored.is_anomaly, scored.scores, detector.threshold_, axis)
    sections = string.Template(resource("page.html")).substitute(
        histogram=_legend(counted) + figures.histogram(scored.is_anomaly, scored.scores, axis, counted),
        controls=_controls(counted),
        curves=_curves(scored, report, counted),
        classes=_sets(report) + _classes(report),
        sheets=_sheets(detector, scored, images),
        about=_about(detector, seconds),
    )
    title = f"{report['dataset']}, normal: {', '.join(report['normal'])}"
    data = json.dumps(counted, separators=(",", ":"))
    write_document(path, title, _lead(report, counted), sections, data, resource("page.js"))


def _lead(report: dict, counted: dict) -> str:
    """Return the sentences that say what the detector is and how good it is."""
    images, totals = report["images"], counted["totals"]
    flagged, found = (counted[kind][counted["own"]] for kind in ("normal", "anomalous"))
    kind = f"normal images of {name(report['dataset'])} (class {', '.join(map(name, report['normal']))})"
    what = f"This detector has learned from {images['train']:,} {kind}."
    threshold = f"At its threshold, <b>{report['threshold']:.4g}</b>, it"
    promise = (
        f"The scores of {images['calibration']:,} held-out normal images set the threshold. On average over such "
        f"images, at most {100.0 * report['promised_rate']:.3g}&nbsp;% of new normal images exceed it."
    )
    if totals[1]:
        return (
            f"<p>{what} An anomaly scores higher than a normal image with a probability (AUROC) of "
            f"<b>{text(evaluation.auroc_text(report['self_ensemble']))}</b>. {threshold} finds "
            f"<b>{share(found, totals[1])}</b> of the anomalies and flags <b>{share(flagged, totals[0])}</b> of the "
            f"normal images of the test.</p><p>{promise}</p>"
        )
    which = "test images, all normal," if images["test_normal"] else "normal images that were held out from training"
    return (
        f"<p>{what} There are no anomalies for the test, so that there is <b>no AUROC</b>. {threshold} flags "
        f"<b>{share(flagged, totals[0])}</b> of the {which}.</p><p>{promise}</p>"
    )


def _legend(counted: dict) -> str:
    kinds = ("normal", "anomalous") if counted["totals"][1] else ("normal",)
    keys = "".join(f'<span><i class="key {kind}"></i> {kind}</span> ' for kind in kinds)
    return (
        f'<p class="legend">{keys}<span><i class="key own"></i> threshold of the detector.</span> '
        "An image whose score is above the threshold is flagged.</p>"
    )


def _controls(counted: dict) -> str:
    """Return the slider and what it changes, with the values at the detector's threshold."""
    last, own = len(counted["thresholds"]) - 1, counted["own"]
    (normals, anomalies), flagged, found = counted["totals"], counted["normal"][own], counted["anomalous"][own]
    shown = f"{counted['thresholds'][own]:.{counted['decimals']}f}"
    values = [("flagged", "Normal images flagged", share(flagged, normals))]
    if anomalies:
        values.append(("missed", "Anomalies missed", share(anomalies - found, anomalies)))
        values.append(("precision", "Anomalies among the flagged", share(found, found + flagged)))
    cells = "".join(f'<div><dt>{title}</dt><dd id="{key}">{value}</dd></div>' for key, title, value in values)
    return (
        f'<div class="slider" hidden><input type="range" id="slider" min="0" max="{last}" value="{own}" step="1" '
        f'aria-label="Threshold" aria-valuetext="{shown}"></div>'
        f'<p class="chosen">Threshold <output id="threshold" for="slider">{shown}</output> '
        '<span id="whose">of the detector</span> '
        '<button type="button" id="reset" hidden disabled>Back to the threshold of the detector</button></p>'
        f'<dl class="rates" aria-live="polite">{cells}</dl>'
    )


def _curves(scored, report: dict, counted: dict) -> str:
    if not counted["totals"][1]:
        return ""
    one_view, ensemble = report["one_view"], report["self_ensemble"]
    base = share(counted["totals"][1], sum(counted["totals"]))
    return (
        f'<section class="curves"><div><h2>ROC</h2>'
        f"{figures.roc(scored.is_anomaly, scored.one_view, scored.scores, counted)}"
        f'<p class="legend"><span><i class="key ensemble"></i> self-ensemble, AUROC {ensemble["auroc"]:.4f}</span> '
        f'<span><i class="key one-view"></i> one view, AUROC {one_view["auroc"]:.4f}.</span> '
        f"To find 95&nbsp;% of the anomalies, {100.0 * ensemble['fpr_at_95_tpr']:.1f}&nbsp;% of the normal images "
        "are flagged."
        "</p></div><div><h2>Precision and recall</h2>"
        f"{figures.precision_recall(scored.is_anomaly, scored.scores, counted)}"
        f'<p class="legend">Average precision {ensemble["aupr_anomaly"]:.4f} with the anomalies as positives, '
        f"{ensemble['aupr_normal']:.4f} with the normal images. The precision depends on the share of anomalies, here "
        f"{base} (dotted).</p></div></section>"
    )


def _sets(report: dict) -> str:
    """Return the table of several datasets of anomalies."""
    if "outliers" not in report:
        return ""
    table = outliers.make_table(report)
    note = "Each dataset of anomalies against all normal images."
    return f"<section><h2>Datasets of anomalies</h2><p>{note}</p>{result_table(table.columns, table.rows)}</section>"


def _classes(report: dict) -> str:
    if not report["anomalous_classes"]:
        return ""
    note = "Each class against all normal images, the worst first. Lines are 95&nbsp;% intervals; the middle is chance."
    bars = figures.class_bars(report["anomalous_classes"])
    return f"<section><h2>Anomalous classes</h2><p>{note}</p>{bars}</section>"


def _sheets(detector, scored, images) -> str:
    """Return the contact sheets of all rows."""
    rows = sheets.sheet_indices(scored.is_anomaly, scored.scores)
    shown = {int(index): images[int(index)] for row in rows.values() for index in row}
    heat = sheets.heat_maps(detector.scorer_, shown)
    p_values = calibration.p_values(detector.calibration_scores_, scored.scores)
    entries = {
        index: sheets.Entry(
            str(scored.names[index]),
            str(scored.labels[index]),
            float(scored.scores[index]),
            float(p_values[index]),
            image,
            heat.get(index),
        )
        for index, image in shown.items()
    }
    span = sheets.heat_range(entries.values())
    parts = [
        f"<h3>{text(title)}</h3>{sheets.sheet([entries[int(index)] for index in row], span, detector.threshold_)}"
        for title, row in rows.items()
        if len(row)
    ]
    note = (
        "<p>p is the conformal p-value: the share of normal images, estimated from the held-out ones, that score at "
        "least as high.</p>"
    )
    return note + sheets.heat_legend(span) + "".join(parts)


def _about(detector, seconds: float | None) -> str:
    """Return versions and configuration; options that differ from their defaults are marked."""
    card = model_card.make_card(detector, detector.config.serving.export_precision)
    versions = {**card["versions"], "commit": card["commit"] or "unknown", "created": card["created"]}
    if seconds is not None:
        versions["time of the fit, last start"] = duration(seconds)
    defaults = Config().flat()
    options = [_row(key, value, value != defaults[key]) for key, value in detector.fitted_config_.flat().items()]
    return (
        f"<table><caption>Versions</caption><tbody>{''.join(_row(*item) for item in versions.items())}</tbody></table>"
        "<table><caption>Configuration; bold options differ from their defaults</caption>"
        f"<tbody>{''.join(options)}</tbody></table>"
    )


def _row(key: str, value, bold: bool = False) -> str:
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else value
    cell = f"<b>{text(shown)}</b>" if bold else text(shown)
    return f'<tr><th scope="row">{text(key)}</th><td>{cell}</td></tr>'
