"""Reports from a file of scores whether they drift: a table by day, a picture or JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import pathlib
from typing import Any

import numpy as np

from mcl_tf import calibration
from mcl_tf.drift_check import FEWEST, LEVEL, drift, holm, ranks_from
from mcl_tf.errors import UsageError, one_line
from mcl_tf.score_file import read_rows, time_of
from mcl_tf.utils.atomic import atomic_file

BY = {"day": "%Y-%m-%d", "hour": "%Y-%m-%d %H:00", "none": "all"}  # how the time of an image becomes its group
UNKNOWN = "unknown"
OUTPUTS = (".json", ".png")
_HEADINGS = ("images", "distance", "p(distance)", "flagged", "95 % interval", "promised", "p(flagged)", "corrected p")
_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class _Scores:
    """The columns of a file of scores, all [n], and what they are compared with.

    Attributes:
      values: float, the scores or their ranks.
      p_values: float.
      is_anomaly: bool.
      groups: strings.
      held_out: float [m].
      promised_rate: float or None.
    """

    values: np.ndarray
    p_values: np.ndarray
    is_anomaly: np.ndarray
    groups: np.ndarray
    held_out: np.ndarray
    promised_rate: float | None


def report_drift(scores, *, by: str, saved_model=None, output=None) -> dict[str, Any]:
    """Test the scores of every day for drift, print a table and a conclusion, and write them if asked to.

    Args:
      scores: a file that `mcl_tf.score_files` has written. Images belong to the day, in local time, on which they were
        modified last.
      by: "day", "hour" or "none". Groups of fewer than 20 images are listed without a test.
      saved_model: the model of the scores, with its threshold and the rate that this promises; a version, or the folder
        of versions, whose newest one is used. Without one, p-values and flags of the file are taken as they are, and no
        rate is known.
      output: a file for a picture (.png) or for the result as JSON (.json); None for none.

    Returns:
      `groups` {name: fields of `Drift`, and `corrected_p_value` by Holm's method}, `too_small` {name: number of
      images}, `held_out`, `level`, `drift` (names of the groups with drift) and `conclusion`.

    Raises:
      UsageError: the file is missing, no file of scores or of another model, no group has 20 scores, or the output
        cannot be written.
    """
    output = None if output is None else pathlib.Path(output).expanduser()
    if output is not None and output.suffix.lower() not in OUTPUTS:
        raise UsageError(f"output must be a file that ends in {' or '.join(OUTPUTS)}. Received: {output}")
    path = pathlib.Path(scores).expanduser()
    data = _read(path, by, saved_model)
    result = _test(path, data, by)
    for line in _table(by, result):
        _logger.info("%s", line)
    _logger.info("%s", result["conclusion"])
    if output is not None:
        _write(output, data, result)
    return result


def _read(path: pathlib.Path, by: str, saved_model) -> _Scores:
    try:
        rows = list(read_rows(path))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in ("score", "p_value", "is_anomaly")}
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"The scores {path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} has a row that is not a score: {one_line(error)}") from None
    models = {row["model"] for row in rows}
    if len(rows) < FEWEST or len(models) > 1:
        raise UsageError(
            f"A test for drift needs at least {FEWEST} scores of one model. "
            f"Received: {path} with {len(rows)} scores of {len(models)} models"
        )
    groups = np.array([_group(row["image_state"], by) for row in rows])
    values, p_values, is_anomaly = columns["score"], columns["p_value"], columns["is_anomaly"] > 0.5
    if saved_model is None:
        values, held_out = ranks_from(p_values)
        return _Scores(values, p_values, is_anomaly, groups, held_out, None)
    held_out, threshold, rate = _read_model(saved_model)
    if not np.allclose(calibration.p_values(held_out, values), p_values, rtol=0, atol=1e-6):
        raise UsageError(f"The p-values of {path} are those of another model. Received: {saved_model}")
    return _Scores(values, p_values, values.astype(np.float32) > np.float32(threshold), groups, held_out, rate)


def _read_model(saved_model) -> tuple[np.ndarray, float, float | None]:
    """Return the held-out scores of a SavedModel, its threshold, and the rate that this promises, if it does."""
    from mcl_tf.export import version_folders  # they import TensorFlow
    from mcl_tf.export.model_card import read_card
    from mcl_tf.export.saved_model import read_calibration_scores

    path = version_folders.find(saved_model)
    threshold = read_card(path)["threshold"]
    rate = threshold.get("promised_rate")
    return read_calibration_scores(path), threshold["value"], rate if rate is not None and 0 < rate < 1 else None


def _group(state: str, by: str) -> str:
    """Return the name of an image's group; the names of times sort like these."""
    time = time_of(state)
    if by == "none":
        return BY[by]
    return UNKNOWN if time is None else datetime.datetime.fromtimestamp(time).strftime(BY[by])


def _test(path: pathlib.Path, data: _Scores, by: str) -> dict[str, Any]:
    """Return the result of `report_drift`."""
    names, counts = np.unique(data.groups, return_counts=True)
    large = [str(name) for name in names[counts >= FEWEST]]
    if not large:
        raise UsageError(f"No {by} has {FEWEST} scores: take a longer time, or none. Received: {path}")
    found = {}
    for name in large:
        chosen = data.groups == name
        found[name] = drift(
            data.values[chosen], data.held_out, promised_rate=data.promised_rate, is_anomaly=data.is_anomaly[chosen]
        )
    corrected = holm([group.p_value for group in found.values()])
    drifting = [name for name, p_value in zip(large, corrected, strict=True) if p_value < LEVEL]
    groups = [
        {**dataclasses.asdict(group), "corrected_p_value": float(value)}
        for group, value in zip(found.values(), corrected, strict=True)
    ]
    return {
        "groups": dict(zip(large, groups, strict=True)),
        "too_small": {str(name): int(count) for name, count in zip(names, counts, strict=True) if count < FEWEST},
        "held_out": len(data.held_out),
        "level": LEVEL,
        "drift": drifting,
        "conclusion": _conclusion(large, drifting, by),
    }


def _conclusion(tested, drifting, by: str) -> str:
    if by == "none":
        where = "these images"
    elif drifting:
        where = f"{len(drifting)} of {len(tested)} {by}s ({', '.join(drifting)})"
    else:
        where = f"any of {len(tested)} {by}s"
    if drifting:
        return (
            f"Drift is seen in {where}, at a level of {100.0 * LEVEL:.0f} %: the scores are not those of normal images."
        )
    return (
        f"No drift is seen in {where}, at a level of {100.0 * LEVEL:.0f} %: the scores may be those of normal images."
    )


def _table(by: str, result: dict[str, Any]) -> list[str]:
    """Return the lines of the table: a heading, and one line per group in the order of time."""
    rows = [("group" if by == "none" else by, *_HEADINGS)]
    for name in sorted({**result["groups"], **result["too_small"]}):
        group = result["groups"].get(name)
        if group is None:
            rows.append((name, str(result["too_small"][name]), "too few", *[""] * (len(_HEADINGS) - 2)))
            continue
        rate, by_number = group["promised_rate"], group["flagged_p_value"]
        rows.append(
            (
                name,
                str(group["images"]),
                f"{group['distance']:.3f}",
                f"{group['distance_p_value']:.2g}",
                _percent(group["share"]),
                f"{_percent(group['low'])} to {_percent(group['high'])}",
                "" if rate is None else _percent(rate),
                "" if by_number is None else f"{by_number:.2g}",
                f"{group['corrected_p_value']:.2g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _percent(share: float) -> str:
    return f"{100.0 * share:.1f} %"


def _write(output: pathlib.Path, data: _Scores, result: dict[str, Any]) -> None:
    try:
        if output.suffix.lower() == ".json":
            with atomic_file(output, encoding="utf-8") as file:
                file.write(json.dumps(result, indent=2) + "\n")
        else:
            _plot(output, data, result)
    except OSError as error:
        raise UsageError(f"The output {os.fspath(output)} cannot be written: {error.strerror}") from None
    _logger.info("%s", output)


def _plot(output: pathlib.Path, data: _Scores, result: dict[str, Any]) -> None:
    """Draw the distribution of the p-values and the share of flagged images of every group."""
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and may open windows

    names = list(result["groups"])
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(result["conclusion"], fontsize=9, wrap=True)
    left, right = figure.subplots(1, 2)
    for name in names:
        p_values = np.sort(data.p_values[data.groups == name])
        shown = {"color": "C3", "label": name} if name in result["drift"] else {"color": "grey", "alpha": 0.6}
        left.step([0, *p_values, 1], [0, *np.arange(1, len(p_values) + 1) / len(p_values), 1], where="post", **shown)
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    left.set(xlabel="p-value", ylabel="share of images with at most this p-value", aspect="equal")
    for index, name in enumerate(names):
        group, colour = result["groups"][name], "C3" if name in result["drift"] else "grey"
        right.plot([index, index], [group["low"], group["high"]], color=colour)
        right.plot(index, group["share"], "o", color=colour)
    if data.promised_rate is not None:
        right.axhline(data.promised_rate, color="black", linewidth=0.8, linestyle=":", label="promised")
        right.legend(frameon=False)
    right.set(ylabel="share of flagged images, 95 % interval", ylim=(0, None))
    right.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    if 0 < len(result["drift"]) <= 10:
        left.legend(frameon=False, fontsize=7)
    with atomic_file(output, "wb") as file:
        figure.savefig(file, dpi=120)
