"""From parsed flags to a `Config`."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from flags import data, model, run, scoring, serving, training
from flags.define import to_field
from mcl_tf.config import Config

MODULES = (data, model, training, scoring, run, serving)  # in the order of --help


flags.DEFINE_bool("help", False, "Show this help.", short_name="h")


def config_from_flags(values: flags.FlagValues = flags.FLAGS) -> Config:
    """The configuration that the command line asked for."""
    groups = {}
    for group in dataclasses.fields(Config):
        kind: Any = type(group.default)
        groups[group.name] = kind(
            **{field.name: to_field(field, values[field.name].value) for field in dataclasses.fields(kind)}
        )
    return Config(**groups)
