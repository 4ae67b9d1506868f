"""The configuration, and the flags that are made of it."""

import copy
import dataclasses
import json
import math
import pathlib

import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver

import flags
import main
from flags.define import define, to_field
from mcl_tf.config import Config, DataConfig, RunConfig, ServingConfig, check, describe_range, value_type
from mcl_tf.errors import UsageError
from mcl_tf.training.optimizers import peak_learning_rate

PRESETS = sorted((pathlib.Path(main.__file__).parent / "flags" / "presets").glob("*.flags"))
GROUPS = {group.name: type(group.default) for group in dataclasses.fields(Config)}
FIELDS = {field.name: field for kind in GROUPS.values() for field in dataclasses.fields(kind)}
TUPLES = [name for name, field in FIELDS.items() if isinstance(field.default, tuple)]
NUMBERS = [name for name, field in FIELDS.items() if "low" in field.metadata and name not in TUPLES]
CHOICES = [name for name, field in FIELDS.items() if "options" in field.metadata]
WORDS = ["dataset", "anomaly_dataset", "run_dir", "data_dir", "saved_model", "images", "output"]
SWITCHES = [name for name, field in FIELDS.items() if value_type(field) is bool]
RUNTIME = {field.name for group in (RunConfig, ServingConfig) for field in dataclasses.fields(group)}


def value_of(config, name):
    return config.flat()[name]


def another(name):
    """A valid value that is not the default."""
    field = FIELDS[name]
    if name == "serving_batch_sizes":
        return (2, 4096)
    if "low" in field.metadata:
        kind = value_type(field)
        return kind(field.metadata["low"] if field.default != field.metadata["low"] else field.metadata["high"])
    if "options" in field.metadata:
        return next(option for option in field.metadata["options"] if option != field.default)
    if name in SWITCHES:
        return not field.default
    return {"normal": ("cat", "9")}.get(name, "somewhere/else")


def refusal(**overrides):
    """The message with which a value is refused."""
    with pytest.raises(UsageError) as error:
        Config().replace(**overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


# Fields


def test_field_names_are_unique():
    assert len(FIELDS) == sum(len(dataclasses.fields(kind)) for kind in GROUPS.values())
    assert set(Config().flat()) == set(FIELDS)
    assert set(NUMBERS) | set(CHOICES) | set(WORDS) | set(SWITCHES) | set(TUPLES) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_defaults_keep_to_their_ranges(name):
    # Straight from the metadata, as `check` lets every default pass.
    field = FIELDS[name]
    meta, default = field.metadata, field.default
    if default in meta.get("options", ()) or (name in ("beta", "learning_rate", "resume") and default is None):
        return
    assert isinstance(default, tuple if name in TUPLES else value_type(field))
    if name in TUPLES:
        assert all(type(item) is value_type(field) for item in default)
        assert all(meta["low"] <= item <= meta["high"] for item in default if "low" in meta)
    elif "low" in meta:
        assert meta["low"] <= default <= meta["high"]
    else:
        assert "options" not in meta


def test_defaults_are_those_of_the_method():
    # Sections 3.1 and 4.1 of the paper and the authors' code.
    config = Config()
    assert (config.loss.alpha, config.loss.temperature, config.loss.spa_weight) == (0.05, 0.2, 1.0)
    assert (config.scoring.views, config.scoring.method) == (8, "weighted")
    assert (peak_learning_rate(config.training), config.training.momentum) == (0.3, 0.9)
    assert (config.training.weight_decay, config.training.final_learning_rate) == (1e-6, 5e-4)
    assert (config.model.projection_hidden, config.model.projection_dim) == (2048, 128)
    augmentation = dataclasses.astuple(config.augmentation)
    assert augmentation == (0.5, 0.5, 0.08, 0.8, 0.2)  # strength, flip, smallest crop, jitter, greyscale


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.epochs = 3


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_keep_to_their_ranges(name):
    field = FIELDS[name]
    low, high, kind = field.metadata["low"], field.metadata["high"], value_type(field)
    for value in (low, high):
        assert value_of(Config().replace(**{name: value}), name) == value
    step = 1 if kind is int else 1e-3
    for value in (low - step, high + step, math.nan, math.inf, -math.inf, "many", [1, 2], {}, True):
        message = refusal(**{name: value})
        received = tuple(value) if isinstance(value, list) else value
        assert message == f"{name} must be {describe_range(field)}. Received: {received!r}"
        assert f"{low:g} to {high:g}" in message
    if kind is int:
        assert "integer" in refusal(**{name: low + 0.5})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "views", "image_size"])
def test_whole_floats_become_integers_or_are_refused(name):
    try:
        config = Config().replace(**{name: 8.0})
    except UsageError:
        return
    assert type(value_of(config, name)) is int


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_all_there_is(name):
    options = FIELDS[name].metadata["options"]
    for option in options:
        assert value_of(Config().replace(**{name: option}), name) == option
    for value in ("nonsense", -3, ["small"]):
        message = refusal(**{name: value})
        assert message.startswith(f"{name} must be ")
        for option in options:
            assert str(option).lower() in message


@pytest.mark.parametrize("name", [*WORDS, *SWITCHES])
def test_words_and_switches_take_nothing_else(name):
    assert value_of(Config().replace(**{name: another(name)}), name) == another(name)
    unset = () if FIELDS[name].default is None else (None,)
    for value in (*unset, 3, ("a",)):
        message = refusal(**{name: value})
        assert name in message
        assert repr(value) in message


def test_shrinkage_is_a_word_a_number_or_none():
    for value in ("ledoit_wolf", None, 0.0, 0.25, 1.0):
        assert Config().replace(shrinkage=value).scoring.shrinkage == value
    message = refusal(shrinkage=1.5)
    assert message == "shrinkage must be ledoit_wolf, none or a number from 0 to 1. Received: 1.5"


def test_normal_is_one_or_more_words():
    assert Config().replace(normal=["3", "cat"]).data.normal == ("3", "cat")
    for value in ((), [], ("",), (3,), ("3", None), None, 3):
        assert "normal must be" in refusal(normal=value)


def test_batch_sizes_are_one_or_more_integers():
    assert Config().replace(serving_batch_sizes=[4]).serving.serving_batch_sizes == (4,)
    for value in ((), (0,), (1, 4097), ("8",), (2.0,), (True,), None, 8, "8"):
        message = refusal(serving_batch_sizes=value)
        assert message == f"serving_batch_sizes must be integers from 1 to 4096. Received: {value!r}"


def test_normal_is_not_a_word():
    assert "normal must be" in refusal(normal="12")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("epochs", "an integer from 0 to 1e+06"),
        ("alpha", "a number from 0 to 1000"),
        ("views", "1, 4 or 8"),
        ("method", "weighted, mean or min"),
        ("shrinkage", "ledoit_wolf, none or a number from 0 to 1"),
        ("dataset", ""),
    ],
)
def test_ranges_in_words(name, words):
    assert describe_range(FIELDS[name]) == words


@pytest.mark.parametrize(
    ("name", "kind"),
    [("labelled", bool), ("seed", int), ("alpha", float), ("beta", float), ("shrinkage", float), ("normal", str)],
)
def test_value_types(name, kind):
    assert value_type(FIELDS[name]) is kind


def test_a_group_out_of_range_is_refused_too():
    with pytest.raises(UsageError, match="seed must be"):
        Config(data=DataConfig(seed=-1))


# replace, flat and differences


def test_replace_changes_one_field_alone():
    for name in FIELDS:
        before = Config()
        after = before.replace(**{name: another(name)})
        assert before == Config()
        assert value_of(after, name) == another(name) != value_of(before, name)
        assert {n for n, v in after.flat().items() if v != before.flat()[n]} == {name}


def test_replace_changes_several_groups_at_once():
    config = Config().replace(encoder="small", epochs=3, alpha=0.5)
    assert (config.model.encoder, config.training.epochs, config.loss.alpha) == ("small", 3, 0.5)
    assert config.replace(epochs=400, encoder="resnet18", alpha=0.05) == Config()
    assert Config().replace() == Config()


@pytest.mark.parametrize("name", ["nonsense", "data", "Epochs"])
def test_unknown_fields_are_refused(name):
    message = refusal(**{name: 1})
    assert message.endswith(f"Received: {name}")
    for field in FIELDS:
        assert field in message


def test_differences_are_those_that_change_figures():
    for name in FIELDS:
        other = Config().replace(**{name: another(name)})
        expected = [] if name in RUNTIME else [f"{name}: {FIELDS[name].default!r}, not {another(name)!r}"]
        assert Config().differences(other) == expected
    assert Config().differences(Config()) == []
    both = Config().differences(Config().replace(epochs=3, seed=1, run_dir="there"))
    assert both == ["seed: 0, not 1", "epochs: 400, not 3"]


# JSON


def test_json_round_trip():
    changed = Config().replace(**{name: another(name) for name in FIELDS})
    for config in (Config(), changed, Config().replace(temperature=0.1 + 0.2, shrinkage=0.1, normal=["a", "ü"])):
        text = config.to_json()
        assert Config.from_json(text) == config
        assert set(json.loads(text)) == set(GROUPS)
    assert isinstance(Config.from_json(changed.to_json()).data.normal, tuple)


def test_json_may_leave_fields_out():
    assert Config.from_json("{}") == Config()
    assert Config.from_json('{"training": {"epochs": 3}, "data": {}}') == Config().replace(epochs=3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "no JSON",
        "null",
        "3",
        '"text"',
        "[]",
        '[{"epochs": 3}]',
        '{"training": 3}',
        '{"training": [1]}',
        "{'a': 1}",
    ],
)
def test_what_is_no_configuration_is_refused(text):
    with pytest.raises(UsageError, match="not a configuration in JSON"):
        Config.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"training": {"epoch": 3}}', "Received: epoch$"),
        ('{"training": {"epochs": -3}}', "epochs must be an integer.*Received: -3"),
        ('{"training": {"epochs": "3"}}', "epochs must be an integer.*Received: '3'"),
        ('{"training": {"epochs": null}}', "epochs must be an integer.*Received: None"),
        ('{"scoring": {"shrinkage": NaN}}', "shrinkage must be.*Received: nan"),
        ('{"data": {"normal": []}}', "normal must be"),
    ],
)
def test_json_with_wrong_fields_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        Config.from_json(text)


@pytest.mark.parametrize("text", ['{"nonsense": {"epochs": 3}}', '{"data": {"epochs": 3}}'])
def test_json_with_unknown_groups_is_refused(text):
    with pytest.raises(UsageError):
        Config.from_json(text)


# Flags


def parse(*arguments):
    """The configuration of a command line, read from a copy of the flags."""
    values = copy.deepcopy(absl_flags.FLAGS)
    values(["main.py", *arguments])
    return flags.config_from_flags(values)


def test_every_field_has_one_flag():
    found = [
        flag.name for module in flags.MODULES for flag in absl_flags.FLAGS.flags_by_module_dict()[module.__name__]
    ]
    assert sorted(found) == sorted(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_flags_have_the_defaults_and_ranges_of_their_fields(name):
    flag = absl_flags.FLAGS[name]
    default = to_field(FIELDS[name], flag.default)
    assert default == FIELDS[name].default
    assert type(default) is type(FIELDS[name].default)
    assert describe_range(FIELDS[name]) in flag.help
    assert len(flag.help) > 20


def test_no_flags_give_the_default_configuration():
    assert parse() == Config()


@pytest.mark.parametrize("name", FIELDS)
def test_every_flag_reaches_its_field(name):
    value = another(name)
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    assert parse(f"--{name}={text}") == Config().replace(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--normal=3, cat"], {"normal": ("3", "cat")}),
        (["--labelled"], {"labelled": True}),
        (["--labelled", "--nolabelled"], {}),
        (["--shrinkage=0.25"], {"shrinkage": 0.25}),
        (["--shrinkage=none"], {"shrinkage": None}),
        (["--shrinkage=None"], {"shrinkage": None}),
        (["--shrinkage=ledoit_wolf"], {}),
        (["--beta=2"], {"beta": 2.0}),
        (["--weight_decay=1e-4", "--epochs", "7"], {"weight_decay": 1e-4, "epochs": 7}),
        (["--epochs=3", "--epochs=4"], {"epochs": 4}),
    ],
)
def test_command_lines(arguments, expected):
    assert parse(*arguments) == Config().replace(**expected)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--epochs=-1", ["epochs", "an integer from 0 to 1e+06", "-1"]),
        ("--epochs=2.5", ["epochs", "2.5"]),
        ("--temperature=0", ["temperature", "from 0.001 to 100", "0.0"]),
        ("--temperature=nan", ["temperature", "from 0.001 to 100", "nan"]),
        ("--temperature=inf", ["temperature", "from 0.001 to 100", "inf"]),
        ("--views=3", ["views", "1, 4 or 8", "3"]),
        ("--encoder=vgg", ["encoder", "small, resnet18, resnet34 or resnet50", "vgg"]),
        ("--shrinkage=much", ["shrinkage", "ledoit_wolf, none or a number from 0 to 1", "much"]),
        ("--shrinkage=1.5", ["shrinkage", "ledoit_wolf, none or a number from 0 to 1", "1.5"]),
        ("--shrinkage=nan", ["shrinkage", "ledoit_wolf, none or a number from 0 to 1", "nan"]),
        ("--normal=", ["normal"]),
        ("--serving_batch_sizes=1,many", ["serving_batch_sizes", "integers from 1 to 4096", "many"]),
        ("--normal=1,,2", ["normal"]),
        ("--nonsense=1", ["nonsense"]),
    ],
)
def test_wrong_flags_are_refused_by_name_and_range(argument, words):
    with pytest.raises(absl_flags.Error) as error:
        parse(argument)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("shrinkage", "0.5", 0.5),
        ("shrinkage", "NONE", None),
        ("shrinkage", "ledoit_wolf", "ledoit_wolf"),
        ("shrinkage", None, None),
        ("beta", None, None),
        ("beta", 2.0, 2.0),
        ("normal", ["a ", " b"], ("a", "b")),
        ("dataset", "0.5", "0.5"),  # a word stays a word, whatever it looks like
        ("dataset", "none", "none"),
        ("method", "mean", "mean"),
        ("epochs", 3, 3),
        ("labelled", False, False),
    ],
)
def test_to_field(name, value, expected):
    found = to_field(FIELDS[name], value)
    assert found == expected
    assert type(found) is type(expected)
    check(FIELDS[name], found)


def test_define_wants_a_help_for_every_field():
    with pytest.raises(TypeError, match="seed"):
        define(DataConfig, **{name: "help" for name in FIELDS if name != "seed" and hasattr(DataConfig, name)})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    assert parse(f"--flagfile={preset}") != Config()


def test_there_are_presets():
    assert {path.stem for path in PRESETS} >= {"cpu", "demo"}


# main, as far as it goes without TensorFlow


@flagsaver.flagsaver
def test_help_lists_every_option(capsys):
    assert main.main(["main.py", "--help"]) == 0
    text = capsys.readouterr().out
    for name in FIELDS:
        assert f"--{name}" in text or f"--[no]{name}" in text
