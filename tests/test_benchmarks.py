"""The arithmetic and the command line of the benchmarks; nothing is measured."""

import importlib
import sys

import numpy as np
import pytest

from benchmarks import folders, growth, measure
from benchmarks.measure import Row

SECONDS = {"whole": [0.2, 0.5, 0.3], "bare": [0.1, 0.2, 0.2]}  # of three rounds


@pytest.mark.parametrize(
    ("limits", "target", "met"),
    [
        ({}, "", None),
        ({"at_most": 1.2}, "at most 1.2", True),
        ({"at_most": 1.0}, "at most 1", False),
        ({"at_least": 1.0}, "at least 1", True),
        ({"at_least": 1.2}, "at least 1.2", False),
    ],
)
def test_targets(limits, target, met):
    row = Row("step", "one / other", 2.2, 2.0, "ms", 1.1, **limits)
    assert (row.target, row.met) == (target, met)


def test_ratio_of_durations_is_the_median_over_the_rounds():
    # The ratios of the rounds are 2, 2.5 and 1.5; the ratio of the medians, 0.3 and 0.2, would be 1.5.
    row = measure.duration_row("step", "", SECONDS, "whole", "bare", calls=10)
    assert (row.value, row.reference, row.ratio) == pytest.approx((30.0, 20.0, 2.0))


def test_ratio_of_rates_is_the_inverse():
    row = measure.rate_row("score", "", SECONDS, "whole", "bare", 60, "images/s")
    assert (row.value, row.reference, row.ratio) == pytest.approx((200.0, 300.0, 0.5))


def test_sides_take_turns_and_warm_up_is_not_measured():
    calls = []
    seconds = measure.time_sides({side: lambda side=side: calls.append(side) for side in "ab"}, repeats=3, warm_up=2)
    assert "".join(calls) == "baab" * 2 + "ba"
    assert [len(values) for values in seconds.values()] == [3, 3]


@pytest.mark.parametrize(("offset", "slope"), [(3.0, 2.0), (0.0, 5.0), (7.0, 0.0)])
def test_formula_predicts_values_that_follow_it(offset, slope):
    sizes = (1, 2, 4, 8)
    values = [offset + slope * n for n in sizes[:-1]] + [1e9]  # the last one is not used
    predicted = growth.predict((lambda n: 1, lambda n: n), sizes, values)
    assert predicted == pytest.approx(offset + slope * 8)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--only=step,speed", "--only must be some of {names}. Received: speed\n"),
        ("--repeats=-1", "--repeats must be at least 0. Received: -1\n"),
    ],
)
def test_bad_arguments_are_refused(argument, message, monkeypatch, capsys):
    command = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(sys, "argv", ["benchmarks", argument])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert message.format(names=", ".join(command.BENCHMARKS)) in capsys.readouterr().err


def test_table_shows_rows_with_their_targets(capsys):
    command = importlib.import_module("benchmarks.__main__")
    command.print_table([Row("step small", "step / encoder", 2.0, 1.6, "ms", 1.25, at_most=1.2)])
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[3].split("│")[1:-1]]
    assert cells == ["step small", "step / encoder", "2", "1.6", "ms", "1.250", "at most 1.2", "missed"]


def test_every_benchmark_has_a_module_with_rows():
    command = importlib.import_module("benchmarks.__main__")
    for name in command.BENCHMARKS.values():
        assert callable(importlib.import_module(f"benchmarks.{name}").rows)


# Folders to measure on.


def test_a_spot_is_round_and_has_the_contrast_of_its_place(rng):
    image, spot = rng.normal(100.0, 20.0, (96, 96)), rng.normal(10.0, 1.0, (folders.SPOT, folders.SPOT))
    changed = folders._with_spot(image.copy(), spot, rng)
    rows, columns = np.nonzero(changed != image)
    assert len(rows) == pytest.approx(np.pi * (folders.SPOT / 2) ** 2, rel=0.05)
    assert (np.ptp(rows), np.ptp(columns)) == (folders.SPOT - 1, folders.SPOT - 1)
    # A few hundred pixels of a place of 100 +- 20; the spot had 10 +- 1.
    inside = changed[rows, columns]
    assert inside.mean() == pytest.approx(100.0, abs=5.0)
    assert inside.std() == pytest.approx(20.0, rel=0.2)


@pytest.mark.parametrize(("defect", "size"), [("scratch", 20), ("chipped", 60)])
def test_a_defect_changes_a_small_part_of_a_ring(defect, size):
    good, bad = (folders._ring(np.random.default_rng(3), kind) for kind in ("", defect))
    # Both have the same noise.
    changed = np.abs(good - bad).max(axis=-1) > 1.0
    assert size / 2 < changed.sum() < 3 * size


def test_fives_are_normal(tmp_path):
    folders._fives(tmp_path)
    counts = {str(f.relative_to(tmp_path)): len(list(f.glob("*.png"))) for f in tmp_path.glob("*/*")}
    assert counts == {"train/good": 120, "test/good": 62, "test/other": 202}  # 182 of 1,797 digits are fives
