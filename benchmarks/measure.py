"""Rows of the table, and the timing of sides that take turns."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import gc
import importlib
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Row:
    """Two sides and their ratio.

    Attributes:
      name: short, with the size.
      what: what is set against what.
      value, reference: the two sides' figures.
      unit: theirs.
      ratio: value / reference, taken turn by turn.
      at_most, at_least: what the ratio should be; None where there is no aim.
    """

    name: str
    what: str
    value: float
    reference: float
    unit: str
    ratio: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def aim(self) -> str:
        """The aim in words; empty if there is none."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio is as it should be; None if there is no aim."""
        if self.at_most is not None:
            return self.ratio <= self.at_most
        return self.ratio >= self.at_least if self.at_least is not None else None


def times(sides: dict[str, Callable], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of every side in every round; all sides take turns within a round, in one order and the other."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    gc.collect()
    gc.disable()  # a collection empties the caches for the side that happens to come next
    try:
        for round_ in range(warm_up + repeats):
            order = list(sides) if round_ % 2 else list(sides)[::-1]
            for side in order:
                start = time.perf_counter()
                sides[side]()
                if round_ >= warm_up:  # the first rounds trace and fill caches
                    found[side].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return found


def duration(name: str, what: str, found, side: str, reference: str, calls: int = 1, **aim) -> Row:
    """A row of durations in ms; the ratio is the median of the rounds' own, so that a slow minute meets both."""
    value, beside = (statistics.median(found[key]) * 1000 / calls for key in (side, reference))
    return Row(name, what, value, beside, "ms", _ratio(found[side], found[reference]), **aim)


def rate(name: str, what: str, found, side: str, reference: str, count: int, unit: str, **aim) -> Row:
    """A row of things a second, of which every call handled `count`."""
    value, beside = (count / statistics.median(found[key]) for key in (side, reference))
    return Row(name, what, value, beside, unit, _ratio(found[reference], found[side]), **aim)


def _ratio(values, references) -> float:
    return statistics.median(v / r for v, r in zip(values, references, strict=True))


def in_a_process(function: Callable, *arguments):
    """What a function gives in a new process, whose memory and devices are its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def rows_of(name: str, repeats: int) -> list[Row] | str:
    """The rows of a module of benchmarks, or the reason why there are none; `repeats` 0 for its own number."""
    module = importlib.import_module(f"benchmarks.{name}")
    found: list[Row] = []
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            for row in module.rows(**({"repeats": repeats} if repeats else {})):
                print(f"  {row.name}: {row.ratio:.3f}", file=sys.stderr, flush=True)
                found.append(row)
    except RuntimeError as error:
        if not found:
            return str(error)
        raise
    return found
