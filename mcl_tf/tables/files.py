"""A table as JSON, CSV, Markdown and on the screen."""

from __future__ import annotations

import csv
import dataclasses
import json
import pathlib

from mcl_tf.errors import printable
from mcl_tf.utils.atomic import atomic_file
from mcl_tf.utils.console import print_table

JSON, CSV, MARKDOWN = FILES = ("results.json", "results.csv", "results.md")


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
      title: its heading.
      columns: names of the columns, of which the first one names the row.
      rows: tuples of one cell per column: text, a number, or None for an empty cell.
      record: what `results.json` holds.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple, ...]
    record: dict

    def write(self, directory: pathlib.Path) -> None:
        """Write `FILES` to a directory, each of them atomically.

        Raises:
          OSError: one of them cannot be written.
        """
        with atomic_file(directory / JSON, encoding="utf-8") as file:
            file.write(json.dumps(self.record, indent=2) + "\n")
        with atomic_file(directory / CSV, newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in self.rows)
        with atomic_file(directory / MARKDOWN, encoding="utf-8") as file:
            file.write(self.markdown())

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.columns, ("---",) * len(self.columns), *map(_texts, self.rows)]
        cells = [[text.replace("\\", "\\\\").replace("|", "\\|") for text in line] for line in lines]
        return f"# {self.title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells)

    def show(self) -> None:
        """Print the table."""
        print_table(self.title, self.columns, map(_texts, self.rows))


def _texts(row) -> list[str]:
    return ["" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else printable(str(cell)) for cell in row]
