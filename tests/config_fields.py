"""The fields of the configuration, for tests of all of them."""

import dataclasses

from mcl_tf.config import Config
from mcl_tf.constraints import AnyOf, Boolean, ByteCount, Choice, Interval, ListOf, Text

GROUPS = {group.name: type(group.default) for group in dataclasses.fields(Config)}
FIELDS = {field.name: field for group in GROUPS.values() for field in dataclasses.fields(group)}
CONSTRAINTS = {name: field.metadata["constraint"] for name, field in FIELDS.items()}


def members(name, kind):
    """Return the constraints of a kind that a field has, also within AnyOf."""
    constraint = CONSTRAINTS[name]
    return [
        c for c in (constraint.constraints if isinstance(constraint, AnyOf) else [constraint]) if isinstance(c, kind)
    ]


NUMBERS = {name: members(name, Interval)[0] for name in FIELDS if members(name, Interval)}
CHOICES = {name: members(name, Choice)[0].options for name in FIELDS if members(name, Choice)}
TEXTS = [name for name in FIELDS if members(name, Text)]
BOOLEANS = [name for name in FIELDS if members(name, Boolean)]
AMOUNTS = [name for name in FIELDS if members(name, ByteCount)]
LISTS = [name for name in FIELDS if members(name, ListOf)]


def other_value(name):
    """Return a valid value of a field that is not its default."""
    default = FIELDS[name].default
    if name in NUMBERS:
        interval = NUMBERS[name]
        return interval.type(interval.low if default != interval.low else interval.high)
    if name in CHOICES:
        return next(option for option in CHOICES[name] if option != default)
    if name in BOOLEANS:
        return not default
    others = {
        "export": ("onnx", "litert"),
        "serving_batch_sizes": (2, 4096),
        "normal": ("cat", "9"),
        "profile_steps": (2, 4),
        "memory_limit": "2GB",
    }
    return others.get(name, "somewhere/else")
