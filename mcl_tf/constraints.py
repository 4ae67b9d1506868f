"""Constraints on option values: `accepts` checks a value, `str` says what is possible."""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any


@dataclasses.dataclass(frozen=True)
class Boolean:
    """True or False."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a bool."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclasses.dataclass(frozen=True)
class Text:
    """Any string."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a string."""
        return isinstance(value, str)

    def __str__(self) -> str:
        return "a string"


@dataclasses.dataclass(frozen=True)
class FileName:
    """Names of files with an ending, e.g. ".keras"."""

    ending: str

    def accepts(self, value: Any) -> bool:
        """Return whether the value is such a name."""
        return isinstance(value, str) and value.endswith(self.ending)

    def __str__(self) -> str:
        return f"a file FILE{self.ending}"


@dataclasses.dataclass(frozen=True)
class Nothing:
    """None, which the command line writes as `none`."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is None."""
        return value is None

    def __str__(self) -> str:
        return "none"


@dataclasses.dataclass(frozen=True)
class Interval:
    """Finite numbers from `low` to `high`, both included.

    Attributes:
      type: int for integers only, float for all real numbers.
      low: the smallest number.
      high: the largest number.
    """

    type: type
    low: float
    high: float

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a number of the type within the interval."""
        kind: Any = numbers.Integral if self.type is int else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        return bool(self.low <= value <= self.high)  # not for NaN; float() would fail with very large integers

    def __str__(self) -> str:
        return f"{'an integer' if self.type is int else 'a number'} from {self.low:g} to {self.high:g}"


class Choice:
    """One of several values of one type.

    Args:
      *options: the values.
    """

    def __init__(self, *options):
        self.options = options

    def accepts(self, value: Any) -> bool:
        """Return whether the value is one of the options."""
        return any(type(value) is type(option) and value == option for option in self.options)

    def __str__(self) -> str:
        return _joined(map(str, self.options))


class AnyOf:
    """Whatever one of several constraints accepts.

    Args:
      *constraints: the constraints.
    """

    def __init__(self, *constraints):
        self.constraints = constraints

    def accepts(self, value: Any) -> bool:
        """Return whether one of the constraints accepts the value."""
        return any(constraint.accepts(value) for constraint in self.constraints)

    def __str__(self) -> str:
        return _joined(map(str, self.constraints))


@dataclasses.dataclass(frozen=True)
class ListOf:
    """Tuples with at least one item, each accepted by the constraint `item` and not empty."""

    item: Any

    def accepts(self, value: Any) -> bool:
        """Return whether the value is such a tuple."""
        return isinstance(value, tuple) and bool(value) and all(self.item.accepts(v) and v != "" for v in value)

    def __str__(self) -> str:
        return f"a list, each item {self.item}"


@dataclasses.dataclass(frozen=True)
class FirstAndLast(ListOf):
    """Tuples of the first and the last number of a range, each accepted by the constraint `item`; or an empty tuple."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is such a tuple."""
        return value == () or (super().accepts(value) and len(value) == 2 and value[0] <= value[1])

    def __str__(self) -> str:
        return f"empty or two ascending numbers A,B, each {self.item}"


def _joined(words) -> str:
    """Return "a, b or c"."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
