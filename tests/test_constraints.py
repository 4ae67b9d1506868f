"""Constraints on option values: what they accept, and their text."""

import fractions
import math

import numpy as np
import pytest

from mcl_tf.constraints import (
    AnyOf,
    Boolean,
    ByteCount,
    Choice,
    FileName,
    FirstAndLast,
    Interval,
    ListOf,
    Nothing,
    Text,
    bytes_of,
)

SHRINKAGE = AnyOf(Choice("ledoit_wolf"), Nothing(), Interval(float, 0.0, 1.0))


@pytest.mark.parametrize(
    ("constraint", "accepted", "refused"),
    [
        (Boolean(), [True, False], [0, 1, None, "true", np.True_]),
        (Text(), ["", "a", "none"], [b"a", None, 3, ("a",)]),
        (FileName(".keras"), ["a.keras", "/b c/d.keras"], ["", "a.h5", "a.keras.zip", "keras", None, 3, b"a.keras"]),
        (Nothing(), [None], ["", "none", 0, False]),
        (
            ByteCount(),
            ["2GB", "0", 0, 10**12],
            ["", "GB", "2 G B", "-1", "1e9", "2GBs", "two", -1, 2.5, True, None, b"2"],
        ),
        (Interval(int, 2, 4), [2, 3, 4, np.int64(3)], [1, 5, 2.0, 3.5, True, "3", None, math.nan, [3], 10**400]),
        (
            Interval(float, 0.5, 2.0),
            [0.5, 1, 1.5, 2.0, np.float32(0.5), np.int8(2), fractions.Fraction(3, 2)],
            [0.499, 2.001, math.nan, math.inf, -math.inf, True, "1", None, 1j, (1.0,), {}, 10**400, np.float32("nan")],
        ),
        (Choice("small", "large"), ["small", "large"], ["Small", "", None, 0, ["small"], ("small",)]),
        (Choice(1, 4), [1, 4], [2, 1.0, True, "1", None]),
        (SHRINKAGE, ["ledoit_wolf", None, 0, 0.25, 1.0], ["none", 1.5, math.nan, True, "0.25"]),
        (ListOf(Text()), [("a",), ("a", "b")], [(), ("",), ("a", ""), ["a"], "a", (3,), (None,), None]),
        (ListOf(Interval(int, 1, 8)), [(1,), (1, 8)], [(), (0,), (1, 9), ("1",), (2.0,), (True,), 8, "8", None]),
        (
            FirstAndLast(Interval(int, 1, 8)),
            [(), (1, 8), (3, 3)],
            [(3,), (3, 2), (0, 2), (1, 9), (1, 2, 3), (1.0, 2), ("1", "2"), [1, 2], "1,2", 3, None],
        ),
    ],
    ids=str,
)
def test_accepts(constraint, accepted, refused):
    assert [value for value in accepted if constraint.accepts(value) is not True] == []
    assert [value for value in refused if constraint.accepts(value) is not False] == []


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (Boolean(), "true or false"),
        (Text(), "a string"),
        (FileName(".keras"), "a file FILE.keras"),
        (Nothing(), "none"),
        (Interval(int, 0, 1_000_000), "an integer from 0 to 1e+06"),
        (Interval(float, 0.0, 1000.0), "a number from 0 to 1000"),
        (Choice(1, 4, 8), "1, 4 or 8"),
        (Choice("ledoit_wolf"), "ledoit_wolf"),
        (AnyOf(Nothing(), Interval(float, 0.0, 1.0)), "none or a number from 0 to 1"),
        (SHRINKAGE, "ledoit_wolf, none or a number from 0 to 1"),
        (ListOf(Text()), "a list, each item a string"),
        (ListOf(Interval(int, 1, 4096)), "a list, each item an integer from 1 to 4096"),
        (FirstAndLast(Interval(int, 1, 9)), "empty or two ascending numbers A,B, each an integer from 1 to 9"),
    ],
    ids=str,
)
def test_text_says_what_is_possible(constraint, text):
    assert str(constraint) == text


def test_constraints_without_options_compare_by_value():
    # flags.define compares them.
    assert Text() == Text()
    assert Text() != Boolean()
    assert ListOf(Text()) == ListOf(Text())
    assert ListOf(Text()) != ListOf(Interval(int, 1, 2))


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (12, 12),
        ("12", 12),
        ("12B", 12),
        ("2GB", 2 * 10**9),
        (" 500 MiB ", 500 * 2**20),
        ("1.5kib", 1536),
        ("3TB", 3 * 10**12),
        ("0.5 gib", 2**29),
    ],
)
def test_amounts_of_memory(amount, expected):
    assert bytes_of(amount) == expected
