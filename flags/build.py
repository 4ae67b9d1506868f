"""Builds a `Config`, or the arguments of `mcl_tf.score_files`, from parsed flags."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from absl import flags

from flags import data, files, model, run, scoring, serving, table, training
from flags.define import to_field
from mcl_tf.config import EVALUATED, Config
from mcl_tf.errors import UsageError
from mcl_tf.tables.plans import EACH, TableOptions, is_table

_TABLE = tuple(field.name for field in dataclasses.fields(TableOptions))
MODULES = (data, model, training, scoring, run, serving, table, files)  # in the order of --help


flags.DEFINE_bool("help", False, "Show this help.", short_name="h")


def config_from_flags(values: flags.FlagValues = flags.FLAGS) -> Config:
    """Return the configuration of a parsed command line."""
    groups = {}
    for group in dataclasses.fields(Config):
        kind: Any = type(group.default)
        groups[group.name] = kind(
            **{field.name: to_field(field, values[field.name].value) for field in dataclasses.fields(kind)}
        )
    config = Config(**groups)
    manifest = values["manifest"].value
    return config.replace(dataset=manifest) if manifest else config


def table_options(config: Config, values: flags.FlagValues = flags.FLAGS) -> TableOptions | None:
    """Return the options of the table that a command line asks for; None if it asks for a single run.

    Args:
      config: the configuration of the command line.
      values: the parsed flags.

    Raises:
      UsageError: flags are not possible, or have no effect together.
    """
    given: dict[str, Any] = {name: values[name].value for name in _TABLE}
    options = TableOptions(**given)
    if is_table(config, options):
        if options.splits and values["normal"].present:
            raise UsageError("--splits chooses the normal classes itself. Received: --normal, too")
        return options
    tables = f"--normal={EACH} or --splits"
    for name, needed in (("seeds", f"--ablate, {tables}"), ("baselines", tables)):
        if values[name].value:
            raise UsageError(f"--{name} needs {needed}. Received: none of them")
    return None


def evaluation_arguments(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """Return the arguments of `reevaluation.evaluate` for a parsed command line.

    Raises:
      UsageError: the run directory is missing.
    """
    config = config_from_flags(values).flat()
    options = {name: config[name] for name in EVALUATED if values[name].present}
    return {**_needed(values, "run_dir"), "options": options, "data_dir": config["data_dir"]}


def score_files_arguments(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """Return the arguments of `mcl_tf.score_files` for a parsed command line.

    Raises:
      UsageError: one of the flags that it needs is missing.
    """
    arguments = _needed(values, "saved_model", "images", "output")
    # Training resumes by default; an existing file of scores is only extended if the user says so.
    arguments["resume"] = bool(values["resume"].present and values["resume"].value)
    arguments["batch_size"] = values["scoring_batch_size"].value
    arguments["heatmaps"] = values["heatmaps"].value
    return arguments


def threshold_arguments(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """Return the arguments of `file_scoring.choose_threshold` for a parsed command line.

    Raises:
      UsageError: one of the flags that it needs is missing.
    """
    if not values["normal"].present:
        raise UsageError("--mode=threshold needs --saved_model, --images and --normal. Received: no --normal")
    arguments = _needed(values, "saved_model", "images")
    return {**arguments, "normal": values["normal"].value, "target": values["target"].value}


def drift_arguments(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """Return the arguments of `drift_report.report_drift` for a parsed command line.

    Raises:
      UsageError: the flag that it needs is missing.
    """
    optional = {name: os.path.expanduser(str(values[name].value)) or None for name in ("saved_model", "output")}
    return {**_needed(values, "scores"), **optional, "by": values["by"].value}


def refuse_other_modes(values: flags.FlagValues = flags.FLAGS) -> None:
    """Refuse flags that have no effect in the chosen mode.

    Raises:
      UsageError: one of them is set.
    """
    names, mode = _flags_by_mode(), str(values["mode"].value)
    for name in sorted(set().union(*names.values()) - names[mode]):
        if values[name].present:
            modes = " or ".join(f"--mode={other}" for other, own in names.items() if name in own)
            raise UsageError(f"--{name} needs {modes}. Received: --mode={mode}")


def _flags_by_mode() -> dict[str, set[str]]:
    """Return the names of the flags that have an effect, by mode."""
    return {
        "train": {*Config().flat(), *_TABLE, "manifest"},
        "evaluate": {*EVALUATED, "run_dir", "data_dir"},
        "score": {"saved_model", "images", "output", "heatmaps", "resume", "scoring_batch_size"},
        "threshold": {"saved_model", "images", "normal", "target"},
        "drift": {"scores", "saved_model", "by", "output"},
    }


def _needed(values, *names) -> dict[str, Any]:
    for name in names:
        if not values[name].value:
            flag_names = ", ".join(f"--{other}" for other in names)
            raise UsageError(f"--mode={values['mode'].value} needs {flag_names}. Received: no --{name}")
    return {name: os.path.expanduser(values[name].value) for name in names}
