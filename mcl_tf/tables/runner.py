"""Runs all trainings of a table in one process, one after the other, and keeps its files up to date."""

from __future__ import annotations

import gc
import json
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from mcl_tf import experiment, run_directory
from mcl_tf.config import Config
from mcl_tf.data.kept import KeptSources
from mcl_tf.data.outliers import check_outliers, loader_of_outliers, outlier_names
from mcl_tf.data.source import Source
from mcl_tf.errors import UsageError
from mcl_tf.run_record import CONFIG, holds_run, with_run_directory
from mcl_tf.tables import baselines, files, plans, summary, table_page
from mcl_tf.tables.files import Table
from mcl_tf.tables.plans import Row, TableOptions
from mcl_tf.utils import compat
from mcl_tf.utils.atomic import atomic_file

BASELINES = "baselines.json"
_logger = logging.getLogger(__name__)


def run(config: Config, options: TableOptions) -> Table:
    """Run a table: every class by itself, random splits into known and unknown classes, or an ablation.

    An ablation repeats the runs with every variant of the training. All rows are run with every seed.

    The images are read once. A run that is finished is not repeated; one that was interrupted continues.

    Args:
      config: the configuration of all runs. `run_dir` is runs/<dataset>-each or runs/<dataset>-splits by default, for
        an ablation runs/<dataset>-<normal>-ablation; it holds the table, and the runs in <row>/seed-<seed>.
      options: those of the table.

    Returns:
      The table, which is written and printed, too.

    Raises:
      UsageError: bad input, or some of the runs have failed; then the table has the others.
      TrainingInterrupted: a signal stopped a training; the table has the runs before it.
    """
    if options.splits:
        config = config.replace(normal=("splits",))
    config = _with_run_directory(config, options)
    kept = KeptSources(config)
    source = kept.load(config.data.dataset, config.run.data_dir)
    rows = plans.make_rows(config, options, source.class_names, source.train_classes())
    check_outliers(outlier_names(config.data.anomaly_dataset), loader_of_outliers(kept.load, config.run.data_dir))
    _report_left_out(source)
    record = _record(config, options)
    directory = _claim(config, record)
    seeds = options.seeds or (config.data.seed,)
    runs = [(row, plans.run_config(config, row, seed)) for row in rows for seed in seeds]
    for _, one in runs:
        holds_run(one)  # other options are refused before the first training
    record["seeds"] = list(seeds)
    make_table = summary.make_ablation if options.ablate else summary.make_table
    title = _title(config, options)
    results: dict[Row, summary.Results] = {}
    for number, (row, one) in enumerate(runs, 1):
        there = ", is finished" if _is_finished(one) else ""
        _logger.info("Run %d of %d: %s, seed %d%s", number, len(runs), row.title, one.data.seed, there)
        found = results.setdefault(row, summary.Results())
        try:
            with compat.gradients_forgotten():  # or every training would stay in memory
                found.add(one.data.seed, _measure(one, options, kept))
        except UsageError as error:
            if kept.failure is not None:
                raise
            _logger.warning("%s, seed %d has no result: %s", row.title, one.data.seed, error)
            found.failed[one.data.seed] = str(error)
        table = make_table(title, record, results)
        _write(table, directory, results)
        _free()
    table.show()
    _report_failures(results, len(runs), directory)
    return table


def _with_run_directory(config: Config, options: TableOptions) -> Config:
    own = config.run.run_dir
    config = with_run_directory(config)
    return config.replace(run_dir=f"{config.run.run_dir}-ablation") if options.ablate and not own else config


def _record(config: Config, options: TableOptions) -> dict[str, Any]:
    """Return what a table is known by, so that two tables are never mixed in one directory."""
    kind = "splits" if options.splits else "classes"
    record: dict[str, Any] = {"table": "ablation" if options.ablate else kind, "dataset": config.data.dataset}
    return {**record, "normal": list(config.data.normal)} if options.ablate else record


def _title(config: Config, options: TableOptions) -> str:
    if options.ablate:
        return f"{config.data.dataset}, normal: {', '.join(config.data.normal)}; AUROC by method"
    return f"{config.data.dataset}, {'known classes' if options.splits else 'normal class'} against the others"


def _measure(config: Config, options: TableOptions, kept: KeptSources) -> Mapping[str, float]:
    """Return the measures of a run, after running it if it is not finished.

    Raises:
      UsageError: it has no result.
    """
    if _is_finished(config):
        report = _read(pathlib.Path(config.run.run_dir) / run_directory.METRICS)
    else:
        report = experiment.run(config, kept.load)
    if "self_ensemble" not in report:
        raise UsageError("There is no AUROC, because there are no anomalies for the test")
    if options.ablate:
        return summary.of_ensembles(report)
    return summary.of_run(report, _baselines(config, kept) if options.baselines else {})


def _is_finished(config: Config) -> bool:
    return holds_run(config) and run_directory.is_finished(pathlib.Path(config.run.run_dir), config.serving.export)


def _baselines(config: Config, kept: KeptSources) -> dict[str, float]:
    """Return the results of the baselines, which are measured once."""
    path = pathlib.Path(config.run.run_dir) / BASELINES
    if not path.exists():
        found = baselines.aurocs(config, kept.load)
        with atomic_file(path) as file:
            file.write(json.dumps(found, indent=2) + "\n")
    return _read(path)


def _read(path: pathlib.Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Remove it, and the run is repeated") from None


def _report_left_out(source: Source) -> None:
    absent = sorted(set(range(len(source.class_names))) - set(source.train_classes()))
    if absent:
        names = ", ".join(source.class_names[number] for number in absent)
        _logger.info("Classes without training images are anomalies only: %s", names)


def _claim(config: Config, record: dict) -> pathlib.Path:
    """Create the directory of a table, or check that it holds the same one.

    Raises:
      UsageError: it holds something else, or cannot be written.
    """
    directory = pathlib.Path(config.run.run_dir)
    names = [name for name in (CONFIG, *files.FILES) if os.path.lexists(directory / name)]
    if CONFIG in names:
        raise UsageError(f"run_dir {directory} holds a run and no table. Choose another run_dir")
    if names:
        theirs = _read(directory / files.JSON) if files.JSON in names else {}
        if not isinstance(theirs, dict) or any(theirs.get(key) != value for key, value in record.items()):
            raise UsageError(f"run_dir {directory} holds other results. Choose another run_dir")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"run_dir {directory} cannot be written: {error.strerror}") from None
    return directory


def _write(table: Table, directory: pathlib.Path, results: Mapping[Row, summary.Results]) -> None:
    try:
        table.write(directory)
        table_page.write_page(directory, table, results)
    except OSError as error:
        raise UsageError(f"The table cannot be written to {directory}: {error.strerror}") from None


def _free() -> None:
    """Free what TensorFlow and Keras keep of a run, so that memory does not grow from run to run."""
    tf.keras.backend.clear_session()
    gc.collect()


def _report_failures(results: Mapping[Row, summary.Results], count: int, directory: pathlib.Path) -> None:
    """Raise an error that names the runs without a result."""
    failed = [f"{row.title} (seed {seed})" for row, found in results.items() for seed in found.failed]
    if failed:
        raise UsageError(
            f"{len(failed)} of {count} runs have no result, see {directory / files.MARKDOWN}: {', '.join(failed)}"
        )
    _logger.info("The table is in %s", directory / files.MARKDOWN)
