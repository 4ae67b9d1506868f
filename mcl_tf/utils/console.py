"""What a person reads on the terminal: lines, progress bars, durations."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """One line to the terminal, above a progress bar if there is one."""
    console.print(text, markup=False)


def tracked(items, description: str, total: int | None = None):
    """The items, with a progress bar that goes away at the end."""
    with progress(description, transient=True) as bar:
        task = bar.add_task("", total=total, note="")
        for item in items:
            yield item
            bar.advance(task)


def progress(description: str, **kwargs) -> Progress:
    """A progress bar with the time left; where output is no terminal nothing is drawn."""
    columns = [TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    columns.append(TextColumn("{task.fields[note]}"))
    return Progress(*columns, console=console, disable=not console.is_terminal, **kwargs)


def duration(seconds: float) -> str:
    """Seconds in words: 40 s, 4 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
