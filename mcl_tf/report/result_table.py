"""A table of results as HTML."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mcl_tf.report.markup import name, text

DEVIATION = ", std"  # ends the title of the column that has the standard deviations of the one before it


def result_table(columns, rows, bars: Collection[str] = (), first_cell: Callable[[str], str] = name) -> str:
    """Return a table whose numbers have their standard deviations beside them.

    Args:
      columns: titles of the columns, of which the first one names the row.
      rows: one cell per column: text, a number, or None for an empty cell. The last row is set apart
        if it is "mean", the name that a class may have, too.
      bars: titles of the columns of shares, from 0 to 1, that are drawn as bars, too.
      first_cell: makes the HTML of a row's name.
    """
    shown = [title for title in columns if not title.endswith(DEVIATION)]
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in shown)
    lines = [_row(dict(zip(columns, row, strict=True)), shown, bars, first_cell) for row in rows]
    kinds = [""] * len(lines)
    if rows and rows[-1][0] == "mean":
        kinds[-1] = ' class="mean"'
    body = "".join(f"<tr{kind}>{line}</tr>" for kind, line in zip(kinds, lines, strict=True))
    return f'<div class="wide"><table class="results"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(cells: dict, shown: list[str], bars: Collection[str], first_cell: Callable[[str], str]) -> str:
    """Return the cells of a row."""
    first, *others = shown
    values = [_cell(cells[title], cells.get(title + DEVIATION), title in bars) for title in others]
    return f'<th scope="row">{first_cell(str(cells[first]))}</th>{"".join(values)}'


def _cell(value, deviation: float | None, bar: bool) -> str:
    if not isinstance(value, float):
        return f"<td>{'' if value is None else text(value)}</td>"
    spread = "" if deviation is None else f" <small>± {deviation:.4f}</small>"
    drawn = f'<i class="bar" aria-hidden="true"><i style="width:{100.0 * value:.2f}%"></i></i>' if bar else ""
    return f"<td>{drawn}<span>{value:.4f}{spread}</span></td>"
