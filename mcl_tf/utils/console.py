"""Terminal output: the handler of the logger `mcl_tf`, progress bars, durations."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.errors import LiveError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class _Console(Console):
    """A console that survives a closed pipe, where newer versions of rich end the process."""

    def on_broken_pipe(self) -> None:
        discard_output()


class _Bar(Progress):
    """A progress bar that draws nothing while another one is shown, where rich before 14.1 raises an error."""

    def start(self) -> None:
        try:
            super().start()
        except LiveError:
            self.disable = True

    def stop(self) -> None:
        if not self.disable:  # rich would print an empty line
            super().stop()


_console = _Console(soft_wrap=True, highlight=False)


def is_terminal() -> bool:
    """Return whether standard output is a terminal on which a bar can be drawn.

    The answer of rich alone would follow variables such as FORCE_COLOR.
    """
    isatty = getattr(_console.file, "isatty", bool)
    return _has_output() and isatty() and not _console.is_dumb_terminal


def _has_output() -> bool:
    return not getattr(sys.stdout, "closed", sys.stdout is None)


def print_line(text: str) -> None:
    """Print one line, above a progress bar if one is shown; after a failure, all further output is discarded.

    Characters that the output cannot encode are printed as backslash escapes.
    """
    if not _has_output():
        return
    try:
        _console.print(_encodable(text), markup=False)
        _console.file.flush()
    except OSError:  # a closed pipe, a full disk
        discard_output()


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table, whose first column is text and whose other ones are numbers.

    Args:
      title: its heading.
      columns: names of the columns.
      rows: texts, one per column.
    """
    first, *others = columns
    table = Table(title=Text(_encodable(title)), title_justify="left", safe_box=True)
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right", min_width=6, overflow="fold")  # 0.1234, however many columns
    for row in rows:
        table.add_row(*(Text(_encodable(text)) for text in row))
    if not _has_output():
        return
    try:
        _console.print(table)
        _console.file.flush()
    except OSError:  # a closed pipe, a full disk
        discard_output()


def _encodable(text: str) -> str:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def discard_output() -> None:
    """Redirect standard output to the null device; nobody can read it."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def open_standard_streams() -> None:
    """Open the null device for standard streams that are closed, and let the others escape what they cannot encode.

    The next file that is opened would get the number of a closed stream, and with it whatever is printed there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115 - for good
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def captured_messages() -> Iterator[None]:
    """Context manager that keeps what C++ code writes to standard error off the screen, unless there is an error."""
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        messages = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    except OSError:  # no folder for temporary files, as in a read-only container
        messages = open(os.devnull, "w+b")  # noqa: SIM115
    with messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except BaseException:
            messages.seek(0)
            os.write(screen, messages.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


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
    return _Bar(*columns, console=_console, disable=not (visible and is_terminal()), **kwargs)


def duration(seconds: float) -> str:
    """Return a duration as text: "40 s", "4 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
