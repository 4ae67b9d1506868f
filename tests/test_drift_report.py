"""The report on drift: groups by time, its table, JSON and picture, and refusals in one line."""

import datetime
import json

import numpy as np
import pytest
from PIL import Image

from mcl_tf import calibration
from mcl_tf.drift_check import drift
from mcl_tf.drift_report import report_drift
from mcl_tf.errors import UsageError
from mcl_tf.export.model_card import read_card
from mcl_tf.export.saved_model import read_calibration_scores
from mcl_tf.score_file import SCORES, ScoreFile
from tests.helpers import CLASS_NAMES

MODEL, HELD_OUT = "m0123456789abcdef", np.random.default_rng(1).normal(size=99)
START, DAY = 1_700_000_000, 86_400  # seconds


def write_scores(path, parts, held_out=HELD_OUT, model=MODEL):
    """Write a file of scores.

    Args:
      path: the file.
      parts: list of (time in seconds or None, scores).
      held_out: scores of held-out images, for p-values and a threshold that promises 5 %.
      model: its fingerprint.
    """
    threshold = calibration.threshold_at(held_out, 0.95)
    with ScoreFile(path, model, resume=False) as file:
        for time, scores in parts:
            state = "" if time is None else f"9 bytes of {time * 10**9 + 5}"
            for index, p_value in enumerate(calibration.p_values(held_out, scores)):
                score = float(np.float32(scores[index]))
                row = (f"{state} {index}.png", score, bool(score > threshold), float(p_value), 0, CLASS_NAMES[0])
                file.write([{**dict(zip(SCORES, row, strict=True)), "place": "", "image_state": state}])
    return path


def day(index):
    return datetime.datetime.fromtimestamp(START + index * DAY).strftime("%Y-%m-%d")


@pytest.fixture
def parts(rng):
    """Two days of normal images, one of shifted ones, one of few images, and images without a time."""
    sizes = ((0, 40, 0.0), (1, 30, 0.0), (2, 40, 1.5), (3, 5, 0.0), (None, 3, 0.0))
    return [(None if index is None else START + index * DAY, rng.normal(m, 1, n)) for index, n, m in sizes]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_the_day_that_drifts_is_named(ending, parts, tmp_path, library_log):
    path = write_scores(tmp_path / f"scores.{ending}", parts)
    found = report_drift(path, by="day", output=tmp_path / "drift.json")
    assert json.loads((tmp_path / "drift.json").read_text()) == found
    assert list(found["groups"]) == [day(0), day(1), day(2)]
    assert found["too_small"] == {day(3): 5, "unknown": 3}
    assert found["held_out"] == len(HELD_OUT)
    assert found["drift"] == [day(2)]
    for name, (_, scores) in zip(found["groups"], parts, strict=False):
        group, expected = found["groups"][name], drift(scores, HELD_OUT)
        assert (group["distance"], group["distance_p_value"]) == (expected.distance, expected.distance_p_value)
        assert (group["flagged"], group["low"], group["high"]) == (expected.flagged, expected.low, expected.high)
        assert group["promised_rate"] is group["flagged_p_value"] is None  # only the SavedModel knows it
    lines = library_log.messages
    assert [line.split()[0] for line in lines[:6]] == ["day", day(0), day(1), day(2), day(3), "unknown"]
    assert lines[6] == found["conclusion"]
    assert lines[6].startswith(f"Drift is seen in 1 of 3 days ({day(2)}), at a level of 5 %")


def test_the_saved_model_gives_threshold_and_rate(tiny_export, tmp_path, rng, library_log):
    version = tiny_export / "saved_model" / "1"
    held_out, card = read_calibration_scores(version), read_card(version)
    assert len(held_out) == card["threshold"]["calibration_images"] == 12
    scores = rng.choice(held_out, 60)
    path = write_scores(tmp_path / "scores.csv", [(START, scores)], held_out)
    found = report_drift(path, by="none", saved_model=tiny_export / "saved_model", output=tmp_path / "drift.png")
    (group,) = found["groups"].values()
    assert list(found["groups"]) == ["all"]
    assert group["promised_rate"] == card["threshold"]["promised_rate"] == 1 / 13
    assert group["flagged"] == np.sum(scores > np.float32(card["threshold"]["value"]))
    assert group["flagged_p_value"] == drift(scores, held_out, promised_rate=1 / 13).flagged_p_value
    assert found["drift"] == []
    assert found["conclusion"].startswith("No drift is seen in these images, at a level of 5 %")
    with Image.open(tmp_path / "drift.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 50
    with pytest.raises(UsageError, match="are those of another model. Received: "):
        report_drift(write_scores(tmp_path / "other.csv", [(START, scores)]), by="day", saved_model=version)


def test_hours(tmp_path, rng):
    parts = [(START + 3600 * index, rng.normal(size=20)) for index in range(2)]
    found = report_drift(write_scores(tmp_path / "scores.csv", parts), by="hour")
    expected = [datetime.datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:00") for time, _ in parts]
    assert list(found["groups"]) == expected
    assert found["conclusion"].startswith("No drift is seen in any of 2 hours")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "The scores .* cannot be read: No such file or directory"),
        ("", "at least 20 scores of one model. Received: .* with 0 scores"),
        ("id,label,is_anomaly,score\n", "is not a file of scores, whose first line is file,score,"),
        ("\x89PNG", "is not a file of scores"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    if text is not None:
        (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        report_drift(tmp_path / "scores.csv", by="day")


def test_scores_that_cannot_be_compared_are_refused(tmp_path, rng):
    few = write_scores(tmp_path / "few.csv", [(START, rng.normal(size=19))])
    with pytest.raises(UsageError, match="at least 20 scores of one model. Received: .* with 19 scores of 1 models"):
        report_drift(few, by="day")
    spread = write_scores(tmp_path / "spread.csv", [(START + DAY * index, rng.normal(size=10)) for index in range(2)])
    with pytest.raises(UsageError, match="No day has 20 scores: take a longer time, or none. Received: "):
        report_drift(spread, by="day")
    text = spread.read_text()
    spread.write_text(text + "".join(few.read_text().replace(MODEL, "m1").splitlines(True)[1:]))
    with pytest.raises(UsageError, match="with 39 scores of 2 models"):
        report_drift(spread, by="none")
    spread.write_text(text.replace(",0,0.", ",0,x"))
    with pytest.raises(UsageError, match="spread.csv has a row that is not a score: could not convert"):
        report_drift(spread, by="none")
    with pytest.raises(UsageError, match=r"output must be a file that ends in \.json or \.png. Received: drift.pdf"):
        report_drift(few, by="day", output="drift.pdf")
