"""The rows of the table, and the timing of sides that take turns."""

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
    """A comparison of two sides.

    Attributes:
      name: short, with the size.
      comparison: what is divided by what.
      value: the measurement.
      reference: the measurement that it is compared with.
      unit: the unit of both.
      ratio: value / reference, the median over the rounds.
      at_most: the largest ratio that meets the target; None for no such target.
      at_least: the smallest ratio that meets the target; None for no such target.
    """

    name: str
    comparison: str
    value: float
    reference: float
    unit: str
    ratio: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def target(self) -> str:
        """The target as text; empty if there is none."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio meets the target; None if there is none."""
        if self.at_most is not None:
            return self.ratio <= self.at_most
        return self.ratio >= self.at_least if self.at_least is not None else None


def time_sides(sides: dict[str, Callable], repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Measure the seconds of every side in every round; the sides of a round take turns, in alternating order.

    Args:
      sides: {name: function without arguments}.
      repeats: the number of rounds.
      warm_up: the number of rounds before them that are not measured, because they trace and fill caches.

    Returns:
      {name: seconds of every round}.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    gc.collect()
    gc.disable()  # a collection would empty the caches for the side that happens to follow
    try:
        for index in range(warm_up + repeats):
            for side in list(sides) if index % 2 else list(sides)[::-1]:
                start = time.perf_counter()
                sides[side]()
                if index >= warm_up:
                    seconds[side].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def duration_row(name: str, comparison: str, seconds, side: str, reference: str, calls: int = 1, **target) -> Row:
    """Return a row of durations in ms.

    The ratio is the median of the rounds' ratios, because a slow minute of the machine slows down both sides.

    Args:
      name: see `Row`.
      comparison: see `Row`.
      seconds: the result of `time_sides`.
      side: the name of the side.
      reference: the name of the side that it is compared with.
      calls: the number of calls per round.
      **target: `at_most` or `at_least`, see `Row`.
    """
    value, other = (statistics.median(seconds[key]) * 1000 / calls for key in (side, reference))
    return Row(name, comparison, value, other, "ms", _ratio(seconds[side], seconds[reference]), **target)


def rate_row(name: str, comparison: str, seconds, side: str, reference: str, count: int, unit: str, **target) -> Row:
    """Return a row of rates.

    Args:
      name: see `Row`.
      comparison: see `Row`.
      seconds: the result of `time_sides`.
      side: the name of the side.
      reference: the name of the side that it is compared with.
      count: the number of images or views per round.
      unit: the unit of the rate, e.g. "images/s".
      **target: `at_most` or `at_least`, see `Row`.
    """
    value, other = (count / statistics.median(seconds[key]) for key in (side, reference))
    return Row(name, comparison, value, other, unit, _ratio(seconds[reference], seconds[side]), **target)


def _ratio(values, references) -> float:
    return statistics.median(v / r for v, r in zip(values, references, strict=True))


def run_in_process(function: Callable, *arguments):
    """Run a function in a new process, with memory and devices of its own, and return its result."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def module_rows(name: str, repeats: int) -> list[Row] | str:
    """Run a module of benchmarks.

    Args:
      name: the name of the module.
      repeats: the number of rounds; 0 for the module's default.

    Returns:
      Its rows, or the reason why there are none.
    """
    module = importlib.import_module(f"benchmarks.{name}")
    rows: list[Row] = []
    try:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            for row in module.rows(**({"repeats": repeats} if repeats else {})):
                print(f"  {row.name}: {row.ratio:.3f}", file=sys.stderr, flush=True)
                rows.append(row)
    except RuntimeError as error:
        if not rows:
            return str(error)
        raise
    return rows
