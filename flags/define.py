"""Defines flags from a configuration group: type, default and range come from its fields, the help from here."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from absl import flags

from mcl_tf.config import check
from mcl_tf.constraints import AnyOf, Boolean, Interval, ListOf, Text
from mcl_tf.errors import UsageError

flags.disclaim_key_flags()  # a flag belongs to the module that calls define()


def define(group: type, **helps: str) -> None:
    """Define one flag per field of a configuration group.

    Args:
      group: a dataclass of `mcl_tf.config`.
      **helps: the help of every field, with its unit; the range is added.
    """
    fields = {field.name: field for field in dataclasses.fields(group)}
    if set(fields) != set(helps):
        raise TypeError(f"{group.__name__} and its helps differ: {set(fields) ^ set(helps)}")
    for name, field in fields.items():
        constraint = field.metadata["constraint"]
        text = helps[name]
        if not isinstance(constraint, (Boolean, Text)) and constraint != ListOf(Text()):
            text += f" Possible: {constraint}."
        _define_one(field, text)
        flags.register_validator(name, _validator(field))


def _define_one(field: dataclasses.Field, text: str) -> None:
    constraint, default = field.metadata["constraint"], cast(Any, field.default)
    if isinstance(constraint, Boolean):
        flags.DEFINE_bool(field.name, default, text)
    elif isinstance(constraint, ListOf):
        flags.DEFINE_list(field.name, [str(item) for item in default], text)
    elif isinstance(constraint, Interval) and constraint.type is float:
        flags.DEFINE_float(field.name, default, text)
    elif isinstance(default, int):
        flags.DEFINE_integer(field.name, default, text)
    else:
        flags.DEFINE_string(field.name, None if default is None else str(default), text)


def _validator(field: dataclasses.Field):
    def validate(value):
        try:
            check(field, to_field(field, value))
        except UsageError as error:
            raise flags.ValidationError(str(error)) from None
        return True

    return validate


def to_field(field: dataclasses.Field, value: Any) -> Any:
    """Convert a flag's value to the field's: lists to tuples, strings to numbers or None if possible."""
    constraint = field.metadata["constraint"]
    if isinstance(constraint, ListOf):
        return _parse_items(constraint, value)
    return _parse(constraint, value) if isinstance(value, str) else value


def _parse_items(constraint: ListOf, items) -> tuple:
    return tuple(_parse(constraint.item, item.strip()) for item in items)


def _parse(constraint, text: str) -> Any:
    """Return the value that a text stands for; the text itself where it stands for nothing else."""
    if isinstance(constraint, AnyOf):
        if constraint.accepts(None) and text.lower() == "none":
            return None
        values = (_parse(member, text) for member in constraint.constraints)
        return next((value for value in values if constraint.accepts(value)), text)
    if isinstance(constraint, ListOf):
        return _parse_items(constraint, text.split(","))
    if isinstance(constraint, Interval):
        try:
            return constraint.type(text)
        except ValueError:
            return text
    return text
