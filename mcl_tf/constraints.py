"""Constraints on option values: `accepts` checks a value, `str` says what is possible."""

from __future__ import annotations

import dataclasses
import numbers
import re
from typing import Any

_UNITS = {"": 1, "b": 1}
_UNITS.update({f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)})
_UNITS.update({f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)})


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


@dataclasses.dataclass(frozen=True)
class ByteCount:
    """Amounts of memory: a number of bytes, or a text such as "500MiB", see `bytes_of`."""

    def accepts(self, value: Any) -> bool:
        """Return whether the value is such an amount."""
        return bytes_of(value) is not None

    def __str__(self) -> str:
        return "a number of bytes such as 2GB or 500MiB"


def bytes_of(value: Any) -> int | None:
    """Return the number of bytes that an amount of memory stands for; None if it is none.

    Args:
      value: an integer of at least 0; or a text of a number and a unit: B or none, KB to TB (powers of 1000), KiB to
        TiB (powers of 1024), in any case.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value) if int(value) >= 0 else None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", value.strip(), re.ASCII) if isinstance(value, str) else None
    unit = _UNITS.get(found[2].lower()) if found else None
    return None if found is None or unit is None else int(float(found[1]) * unit)


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
