"""Terminal output: the handler of the logger `mcl_tf`, progress bars, durations."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Console(Console):
    """A console that survives a closed pipe, where newer versions of rich end the process."""

    def on_broken_pipe(self) -> None:
        discard_output()


_console = _Console(soft_wrap=True, highlight=False)


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return _console.is_terminal


def print_line(text: str) -> None:
    """Print one line, above a progress bar if one is shown; a closed pipe discards all further output."""
    try:
        _console.print(text, markup=False)
        _console.file.flush()
    except BrokenPipeError:
        discard_output()


def discard_output() -> None:
    """Redirect standard output to the null device; the reader of the pipe has closed it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class ConsoleHandler(logging.Handler):
    """Prints log records as lines: errors to standard error, the others to standard output.

    Warnings begin with "Warning: ".
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        if record.levelno >= logging.ERROR:
            print(record.getMessage(), file=sys.stderr, flush=True)
        else:
            print_line(("Warning: " if record.levelno == logging.WARNING else "") + record.getMessage())


def tracked(items: Iterable, description: str, total: int | None = None, visible: bool = True) -> Iterator:
    """Yield the items and show a progress bar on a terminal, which disappears at the end.

    Args:
      items: any iterable.
      description: the text before the bar.
      total: the number of items, if it is known.
      visible: whether to show the bar.

    Yields:
      The items.
    """
    with progress(description, visible, transient=True) as bar:
        task = bar.add_task("", total=total, note="")
        for item in items:
            yield item
            bar.advance(task)


def progress(description: str, visible: bool = True, **kwargs) -> Progress:
    """Create a progress bar with the time left; it draws nothing where output is no terminal.

    Args:
      description: the text before the bar.
      visible: whether to show the bar.
      **kwargs: arguments of `rich.progress.Progress`.
    """
    columns = [TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=_console, disable=not (visible and is_terminal()), **kwargs)


def duration(seconds: float) -> str:
    """Return a duration as text: "40 s", "4 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
