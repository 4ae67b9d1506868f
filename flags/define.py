"""Flags out of a configuration group: type, default and range come from its fields, the help from here."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags

from mcl_tf.config import check, describe_range, value_type
from mcl_tf.errors import UsageError

flags.disclaim_key_flags()  # a flag belongs to the module that calls define()


def define(group: type, **helps: str) -> None:
    """Defines one flag a field of a configuration group.

    Args:
      group: a dataclass of `mcl_tf.config`.
      **helps: the help of every field, with its unit; the range is added.
    """
    fields = {field.name: field for field in dataclasses.fields(group)}
    if set(fields) != set(helps):
        raise TypeError(f"{group.__name__} and its helps differ: {set(fields) ^ set(helps)}")
    for name, field in fields.items():
        possible = describe_range(field)
        text = f"{helps[name]} Possible: {possible}." if possible else helps[name]
        _define_one(field, text)
        flags.register_validator(name, _validator(field))


def _define_one(field: dataclasses.Field, text: str) -> None:
    kind, options = value_type(field), field.metadata.get("options", ())
    default: Any = field.default
    if kind is bool:
        flags.DEFINE_bool(field.name, default, text)
    elif isinstance(default, tuple):
        flags.DEFINE_list(field.name, [str(item) for item in default], text)
    elif kind is str or options and "low" in field.metadata:
        flags.DEFINE_string(field.name, default, text)
    elif kind is int:
        flags.DEFINE_integer(field.name, default, text)
    else:
        flags.DEFINE_float(field.name, default, text)


def _validator(field: dataclasses.Field):
    def validate(value):
        try:
            check(field, to_field(field, value))
        except UsageError as error:
            raise flags.ValidationError(str(error)) from None
        return True

    return validate


def to_field(field: dataclasses.Field, value):
    """A flag's value as the field's: lists become tuples, words that stand for numbers or None become those."""
    if isinstance(value, list):
        items = tuple(item.strip() for item in value)
        whole = value_type(field) is int and all(item.isdecimal() for item in items)
        return tuple(int(item) for item in items) if whole else items
    if isinstance(value, str) and "low" in field.metadata:
        if value.lower() == "none":
            return None
        try:
            return float(value)
        except ValueError:
            return value
    return value
