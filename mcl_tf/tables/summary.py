"""From the results of runs to the rows of a table, their mean and the worst of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mcl_tf.report.result_table import DEVIATION
from mcl_tf.scoring import METHODS
from mcl_tf.tables.files import Table
from mcl_tf.tables.plans import Row

TITLES = {
    "one_view": "AUROC, one view",
    "self_ensemble": "AUROC, SEI",
    **{
        f"{method}_{features}": f"AUROC, {title}, {features}"
        for features in ("pixels", "embedding")
        for method, title in (("knn", "nearest neighbours"), ("ocsvm", "SVM"), ("iforest", "isolation forest"))
    },
}
ABLATED_VIEWS = (1, 4, 8)
_RANKED = "self_ensemble"  # the measure of which the smallest mean is the worst


@dataclasses.dataclass
class Results:
    """What the runs of a row have given so far.

    Attributes:
      measures: {measure: {seed: value}}.
      failed: {seed: why there is no result}.
    """

    measures: dict[str, dict[int, float]] = dataclasses.field(default_factory=dict)
    failed: dict[int, str] = dataclasses.field(default_factory=dict)

    def add(self, seed: int, values: Mapping[str, float]) -> None:
        """Add the measures of a run."""
        for name, value in values.items():
            self.measures.setdefault(name, {})[seed] = value


def of_run(report: dict, baselines: Mapping[str, float]) -> dict[str, float]:
    """Return the measures of a run.

    Args:
      report: the content of its `metrics.json`, with an AUROC.
      baselines: {name: AUROC} of simple methods.
    """
    values = {name: report[name]["auroc"] for name in ("one_view", "self_ensemble")}
    if "accuracy" in report:
        values["accuracy"] = report["accuracy"]
    return {**values, **baselines}


def of_ensembles(report: dict) -> dict[str, float]:
    """Return the AUROCs of an ablation by method and number of views, from the content of a run's `metrics.json`."""
    by_views = {views: report["ensembles"][str(views)] for views in ABLATED_VIEWS}
    return {f"{method}_{views}": by_views[views][method] for views in ABLATED_VIEWS for method in METHODS}


def make_table(title: str, record: dict, results: Mapping[Row, Results]) -> Table:
    """Return the table of the runs so far.

    Args:
      title: its heading.
      record: what `results.json` says of the table beside its rows.
      results: those of every row, in the order of the table.

    Returns:
      A table with the mean and, with several seeds, the sample standard deviation of every measure. The last row has
      the means over the rows; its standard deviations are those of these means over the seeds that all rows have.
    """
    names = list(dict.fromkeys(name for found in results.values() for name in found.measures))
    rows: list[dict] = [
        {
            "name": row.name,
            "normal": list(row.normal),
            **{name: _statistics(found.measures[name]) for name in names if name in found.measures},
            **({"failed": {str(seed): reason for seed, reason in found.failed.items()}} if found.failed else {}),
        }
        for row, found in results.items()
    ]
    ranked = [row for row in rows if _RANKED in row]
    worst = min(ranked, key=lambda row: row[_RANKED]["mean"])["name"] if ranked else None
    mean = {name: _over_rows([found.measures.get(name, {}) for found in results.values()]) for name in names}
    several = any(row[name]["std"] is not None for row in rows for name in names if name in row)
    cells = [_cells(row, names, several, _note(row, worst if len(ranked) > 1 else None)) for row in rows]
    cells.append(_cells({"name": "mean", **mean}, names, several, None))
    record = {**record, "rows": rows, "mean": mean, "worst": worst}
    return Table(title, ("normal", *_columns(names, several), "note"), tuple(cells), record)


def make_ablation(title: str, record: dict, results: Mapping[Row, Results]) -> Table:
    """Return the table of an ablation: for every training and number of views, the AUROC with each method.

    Args:
      title: its heading.
      record: what `results.json` says of the table beside its variants.
      results: those of every row of every variant, in the order of the table, see `of_ensembles`.

    Returns:
      A table with the means over the rows that `make_table` gives for each variant.
    """
    groups: dict[str, dict[Row, Results]] = {}
    for row, found in results.items():
        groups.setdefault(row.variant, {})[row] = found
    variants = []
    for variant, own in groups.items():
        part, first = make_table("", {}, own).record, next(iter(own))
        options = dict(first.overrides)
        variants.append({"name": variant, "options": options, "rows": part["rows"], "mean": part["mean"]})
    several = any(mean["std"] is not None for variant in variants for mean in variant["mean"].values())
    cells = [line for variant in variants for line in _lines_of_variant(variant, several)]
    columns = ("training", "views", *_columns(METHODS, several), "note")
    return Table(title, columns, tuple(cells), {**record, "variants": variants})


def _lines_of_variant(variant: dict, several: bool) -> list[tuple]:
    """Return a line per number of views; the first one has the notes, and is the only one if there is no result."""
    notes = [f"{row['name']}, {note}" for row in variant["rows"] if (note := _note(row, None))]
    row: dict = {"name": variant["name"], **variant["mean"]}
    lines: list[tuple] = []
    for views in ABLATED_VIEWS if variant["mean"] else (None,):
        note = None if lines else "; ".join(notes) or None
        name, *cells = _cells(row, [f"{method}_{views}" for method in METHODS], several, note)
        lines.append((name, views, *cells))
    return lines


def _columns(names, several: bool) -> list[str]:
    headings = [TITLES.get(name, name) for name in names]
    return [column for text in headings for column in ((text, text + DEVIATION) if several else (text,))]


def _statistics(by_seed: dict[int, float]) -> dict:
    values = list(by_seed.values())
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    by_text = {str(seed): value for seed, value in by_seed.items()}
    return {"mean": float(np.mean(values)), "std": deviation, "by_seed": by_text}


def _over_rows(measures) -> dict:
    """Return mean and standard deviation of the means over the rows that have a value."""
    present = [by_seed for by_seed in measures if by_seed]
    shared = [seed for seed in present[0] if all(seed in by_seed for by_seed in present)]
    by_seed = {seed: float(np.mean([values[seed] for values in present])) for seed in shared}
    deviation = float(np.std(list(by_seed.values()), ddof=1)) if len(by_seed) > 1 else None
    mean = float(np.mean([np.mean(list(values.values())) for values in present]))
    return {"mean": mean, "std": deviation, "rows": len(present)}


def _cells(row: dict, names, several: bool, note: str | None) -> tuple:
    keys = ("mean", "std") if several else ("mean",)
    numbers = [row[name][key] if name in row else None for name in names for key in keys]
    return (row["name"], *numbers, note)


def _note(row: dict, worst: str | None) -> str | None:
    notes = ["worst"] if row["name"] == worst else []
    notes += [f"seed {seed}: {reason}" for seed, reason in row.get("failed", {}).items()]
    return "; ".join(notes) or None
