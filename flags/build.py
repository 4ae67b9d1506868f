"""Builds a `Config`, or the arguments of `mcl_tf.score_files`, from parsed flags."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from flags import data, files, model, run, scoring, serving, training
from flags.define import to_field
from mcl_tf.config import Config
from mcl_tf.errors import UsageError

MODULES = (data, model, training, scoring, run, serving, files)  # in the order of --help


flags.DEFINE_bool("help", False, "Show this help.", short_name="h")


def config_from_flags(values: flags.FlagValues = flags.FLAGS) -> Config:
    """Return the configuration of a parsed command line."""
    groups = {}
    for group in dataclasses.fields(Config):
        kind: Any = type(group.default)
        groups[group.name] = kind(
            **{field.name: to_field(field, values[field.name].value) for field in dataclasses.fields(kind)}
        )
    return Config(**groups)


def score_files_arguments(values: flags.FlagValues = flags.FLAGS) -> dict[str, Any]:
    """Return the arguments of `mcl_tf.score_files` for a parsed command line.

    Raises:
      UsageError: one of the flags that it needs is missing.
    """
    names = ("saved_model", "images", "output")
    for name in names:
        if not values[name].value:
            raise UsageError(f"--mode=score needs --saved_model, --images and --output. Received: no --{name}")
    arguments = {name: values[name].value for name in names}
    # Training resumes by default; an existing file of scores is only extended if the user says so.
    arguments["resume"] = bool(values["resume"].present and values["resume"].value)
    arguments["batch_size"] = values["scoring_batch_size"].value
    return arguments
