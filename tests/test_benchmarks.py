"""The arithmetic of the benchmarks' table; nothing here takes a time."""

import importlib
import sys

import pytest

from benchmarks import growth, measure
from benchmarks.measure import Row

TIMES = {"whole": [0.2, 0.5, 0.3], "bare": [0.1, 0.2, 0.2]}  # rounds of both sides


@pytest.mark.parametrize(
    ("aim", "words", "met"),
    [
        ({}, "", None),
        ({"at_most": 1.2}, "at most 1.2", True),
        ({"at_most": 1.0}, "at most 1", False),
        ({"at_least": 1.0}, "at least 1", True),
        ({"at_least": 1.2}, "at least 1.2", False),
    ],
)
def test_aims(aim, words, met):
    row = Row("step", "one / other", 2.2, 2.0, "ms", 1.1, **aim)
    assert (row.aim, row.met) == (words, met)


def test_the_ratio_of_durations_is_the_median_of_the_rounds():
    # 2, 2.5 and 1.5 in the rounds; the medians of the sides, 0.3 and 0.2, would give 1.5.
    row = measure.duration("step", "", TIMES, "whole", "bare", calls=10)
    assert (row.value, row.reference, row.ratio) == (pytest.approx(30.0), pytest.approx(20.0), pytest.approx(2.0))


def test_the_ratio_of_rates_is_the_other_way_round():
    row = measure.rate("score", "", TIMES, "whole", "bare", 60, "pictures/s")
    assert (row.value, row.reference, row.ratio) == (
        pytest.approx(200.0),
        pytest.approx(300.0),
        pytest.approx(0.5),
    )


def test_sides_take_turns_and_the_first_rounds_do_not_count():
    calls = []
    found = measure.times({side: lambda side=side: calls.append(side) for side in "ab"}, repeats=3, warm_up=2)
    assert "".join(calls) == "baab" * 2 + "ba"
    assert [len(values) for values in found.values()] == [3, 3]


@pytest.mark.parametrize(("offset", "slope"), [(3.0, 2.0), (0.0, 5.0), (7.0, 0.0)])
def test_a_formula_foretells_what_follows_it(offset, slope):
    sizes = (1, 2, 4, 8)
    values = [offset + slope * n for n in sizes[:-1]] + [1e9]  # the last is not looked at
    found = growth.foretell((lambda n: 1, lambda n: n), sizes, values)
    assert found == pytest.approx(offset + slope * 8)


def test_an_unknown_row_is_refused_with_those_that_there_are(monkeypatch, capsys):
    table = importlib.import_module("benchmarks.__main__")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only=step,speed"])
    with pytest.raises(SystemExit) as stopped:
        table.main()
    assert stopped.value.code == 2
    assert f"--only must be of {', '.join(table.BENCHMARKS)}. Received: speed\n" in capsys.readouterr().err


def test_every_row_has_its_module():
    table = importlib.import_module("benchmarks.__main__")
    for name in table.BENCHMARKS.values():
        assert callable(importlib.import_module(f"benchmarks.{name}").rows)
