"""Writes `report.html` of a table of runs."""

from __future__ import annotations

import pathlib
import string
import urllib.parse
from collections.abc import Mapping, Sequence

from mcl_tf import run_directory
from mcl_tf.report.document import write_document
from mcl_tf.report.markup import name, resource, text
from mcl_tf.report.result_table import result_table
from mcl_tf.scoring import METHODS
from mcl_tf.tables import summary
from mcl_tf.tables.files import Table
from mcl_tf.tables.plans import Row


def write_page(directory: pathlib.Path, table: Table, results: Mapping[Row, summary.Results]) -> None:
    """Write the page of a table: what it shows in a sentence, all values, and links to the pages of its runs.

    Args:
      directory: that of the table, which the folders of the runs lie in.
      table: the table.
      results: those of every row so far.

    Raises:
      OSError: the file cannot be written.
    """
    ablation = table.record["table"] == "ablation"
    bars = METHODS if ablation else (summary.TITLES["self_ensemble"],)
    sections = string.Template(resource("table.html")).substitute(
        results=result_table(table.columns, table.rows, bars),
        runs="".join(_runs(directory, row, found) for row, found in results.items()),
    )
    lead = _lead_of_ablation(table) if ablation else _lead(table)
    write_document(directory / run_directory.PAGE, table.title, lead, sections)


def _lead(table: Table) -> str:
    """Return the sentences on the mean and the worst class or split."""
    record = table.record
    if "self_ensemble" not in record["mean"]:
        return "<p>No run has a result.</p>"
    ranked = [row for row in record["rows"] if "self_ensemble" in row]
    several, one = {"classes": ("classes", "class"), "splits": ("splits", "split")}[record["table"]]
    what = f"{len(ranked)} {several}" if len(ranked) > 1 else f"one {one}"
    one_view, ensemble = (_with_deviation(record["mean"][key]) for key in ("one_view", "self_ensemble"))
    lead = (
        "<p>An anomaly scores higher than a normal image with a probability (AUROC) of "
        f"<b>{ensemble}</b>, the mean over {what}, with self-ensemble inference (SEI). "
        f"With one view, it is {one_view}."
    )
    if len(ranked) > 1:
        worst = next(row for row in ranked if row["name"] == record["worst"])
        lead += f" The worst {one} is <b>{name(worst['name'])}</b> with {worst['self_ensemble']['mean']:.4f}."
    return f"{lead}{_best_baseline(record['mean'])}</p>{_note(record['seeds'])}"


def _best_baseline(means: Mapping[str, dict]) -> str:
    """Return what the best of the baselines has, if there are any."""
    baselines = [key for key in means if key in summary.TITLES and key not in ("one_view", "self_ensemble")]
    if not baselines:
        return ""
    best = max(baselines, key=lambda key: means[key]["mean"])
    _, method, features = summary.TITLES[best].split(", ")
    return f" The best of the baselines, {method} on {features}, has {_with_deviation(means[best])}."


def _lead_of_ablation(table: Table) -> str:
    """Return the sentence on the best training, number of views and method."""
    cells = [
        (value["mean"], variant["name"], *key.rsplit("_", 1), _with_deviation(value))
        for variant in table.record["variants"]
        for key, value in variant["mean"].items()
    ]
    if not cells:
        return "<p>No run has a result.</p>"
    _, training, method, views, value = max(cells, key=lambda cell: cell[0])
    how = "one view" if views == "1" else f"{views} views and the method <code>{text(method)}</code>"
    return (
        f"<p>The highest mean AUROC, <b>{value}</b>, is that of the training <b>{text(training)}</b> with {how}.</p>"
        f"{_note(table.record['seeds'])}"
    )


def _with_deviation(value: Mapping) -> str:
    return f"{value['mean']:.4f}" + ("" if value["std"] is None else f" ± {value['std']:.4f}")


def _note(seeds: Sequence[int]) -> str:
    if len(seeds) == 1:
        return f"<p>All runs have the seed {seeds[0]}.</p>"
    return f"<p>± is the standard deviation over the seeds {', '.join(map(str, seeds))}.</p>"


def _runs(directory: pathlib.Path, row: Row, found: summary.Results) -> str:
    """Return the item of a row, with a link to the page of each of its runs."""
    seeds = sorted({seed for values in found.measures.values() for seed in values} | set(found.failed))
    links = []
    for seed in seeds:
        path = pathlib.PurePosixPath(row.folder, f"seed-{seed}", run_directory.PAGE)
        there = (directory / path).is_file()
        links.append(f'<a href="{text(urllib.parse.quote(str(path)))}">seed {seed}</a>' if there else f"seed {seed}")
    return f"<li>{name(row.title)}: {', '.join(links)}</li>"
