"""The configuration: defaults, checks, copies and JSON."""

import dataclasses
import fractions
import json
import math
import pathlib

import numpy as np
import pytest
from config_fields import AMOUNTS, BOOLEANS, CHOICES, CONSTRAINTS, FIELDS, GROUPS, LISTS, NUMBERS, TEXTS, other_value

from mcl_tf.config import PATHS, Config, DataConfig, RunConfig, ServingConfig, check
from mcl_tf.errors import UsageError
from mcl_tf.training.optimizers import peak_learning_rate

NOT_OF_TRAINING = {"views", "view_area", "method", "embedding", "evidence", "shrinkage", "scoring_batch_size"}
NOT_OF_TRAINING |= {"dataset", "normal", "anomaly_dataset"}
GROUP_OF = {field.name: group for group, kind in GROUPS.items() for field in dataclasses.fields(kind)}
RUNTIME = {field.name for group in (RunConfig, ServingConfig) for field in dataclasses.fields(group)}


def value_of(config, name):
    return config.flat()[name]


def refusal(**overrides):
    """Return the message with which a value is refused."""
    with pytest.raises(UsageError) as error:
        Config().replace(**overrides)
    message = str(error.value)
    assert "\n" not in message
    return message


# Fields.


def test_field_names_are_unique():
    assert len(FIELDS) == sum(len(dataclasses.fields(kind)) for kind in GROUPS.values())
    assert set(Config().flat()) == set(FIELDS)
    assert set(NUMBERS) | set(CHOICES) | set(TEXTS) | set(BOOLEANS) | set(LISTS) | set(AMOUNTS) == set(FIELDS)


def test_files_and_mode_are_not_part_of_the_configuration():
    assert not {"mode", "saved_model", "images", "output"} & set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_defaults_meet_their_constraints(name):
    default = FIELDS[name].default
    assert CONSTRAINTS[name].accepts(default)
    if name in NUMBERS and isinstance(default, (int, float)):
        assert type(default) is NUMBERS[name].type
        assert NUMBERS[name].low <= default <= NUMBERS[name].high


def test_defaults_are_those_of_the_method():
    # Sections 3.1 and 4.1 of the paper, and the authors' code.
    config = Config()
    assert (config.loss.alpha, config.loss.temperature, config.loss.spa_weight) == (0.05, 0.2, 1.0)
    assert config.scoring.method == "weighted"
    assert (peak_learning_rate(config.training), config.training.momentum) == (0.3, 0.9)
    assert (config.training.weight_decay, config.training.final_learning_rate) == (1e-6, 5e-4)
    assert (config.model.projection_hidden, config.model.projection_dim) == (2048, 128)
    augmentation = dataclasses.astuple(config.augmentation)
    assert augmentation == (
        0.5,
        0.5,
        0.08,
        0.8,
        0.2,
        True,
    )  # strength, flip, smallest crop, jitter, greyscale, rotations


def test_defaults_go_beyond_the_paper_where_it_pays():
    # benchmarks/quality.md; flags/presets/paper_cifar10.flags switches each of them off.
    config = Config()
    assert (config.model.standardize, config.model.encoder_weights, config.model.freeze_encoder) == (True, "", False)
    assert (config.loss.rotation_weight, config.training.clip_norm, config.training.warmup_steps) == (1.0, 0.0, 0)
    scoring = (config.scoring.views, config.scoring.embedding, config.scoring.evidence, config.scoring.score)
    assert scoring == (0, "stages", True, "image")
    assert (config.data.image_size, config.data.detail_size) == (0, 0)


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().training.epochs = 3


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_limited_to_their_intervals(name):
    interval = NUMBERS[name]
    for value in (interval.low, interval.high):
        assert value_of(Config().replace(**{name: value}), name) == value
    step = 1 if interval.type is int else 1e-3
    beyond = (interval.low - step, interval.high + step, 10**400)
    for value in (*beyond, math.nan, math.inf, -math.inf, "many", [1, 2], {}, True):
        message = refusal(**{name: value})
        received = tuple(value) if isinstance(value, list) else value
        assert message == f"{name} must be {CONSTRAINTS[name]}. Received: {received!r}"
        assert f"{interval.low:g} to {interval.high:g}" in message
    if interval.type is int:
        assert "integer" in refusal(**{name: interval.low + 0.5})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "views", "image_size"])
def test_floats_are_refused_for_integers(name):
    assert refusal(**{name: 8.0}).endswith("Received: 8.0")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("epochs", np.int64(8), 8),
        ("views", np.int32(4), 4),
        ("alpha", np.float64(0.25), 0.25),
        ("strength", np.float32(0.25), 0.25),
    ],
)
def test_numpy_numbers_become_python_numbers(name, value, expected):
    config = Config().replace(**{name: value})
    assert type(value_of(config, name)) is type(expected)
    assert value_of(config, name) == expected
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_limited_to_their_options(name):
    for option in CHOICES[name]:
        assert value_of(Config().replace(**{name: option}), name) == option
    for value in ("nonsense", -3, ["small"]):
        message = refusal(**{name: value})
        assert message.startswith(f"{name} must be ")
        for option in CHOICES[name]:
            assert str(option) in message


@pytest.mark.parametrize("name", [*TEXTS, *BOOLEANS])
def test_texts_and_booleans_refuse_other_types(name):
    assert value_of(Config().replace(**{name: other_value(name)}), name) == other_value(name)
    for value in (None, 3, ("a",)):
        message = refusal(**{name: value})
        assert name in message
        assert repr(value) in message


def test_shrinkage_is_a_word_a_number_or_none():
    for value in ("ledoit_wolf", None, 0.0, 0.25, 1.0):
        assert Config().replace(shrinkage=value).scoring.shrinkage == value
    message = refusal(shrinkage=1.5)
    assert message == "shrinkage must be ledoit_wolf, none or a number from 0 to 1. Received: 1.5"


def test_the_encoder_is_a_name_or_a_keras_file():
    for value in ("small", "compact", "convnext_tiny", "my encoder.keras", "/some/where/else.keras"):
        assert Config().replace(encoder=value).model.encoder == value
    for value in ("vgg", "encoder.h5", ".keras.zip", "", None, 3):
        message = refusal(encoder=value)
        assert "mobilenet_v3_small" in message
        assert message.endswith(f"or a file FILE.keras. Received: {value!r}")


def test_normal_is_a_list_of_strings():
    assert Config().replace(normal=["3", "cat"]).data.normal == ("3", "cat")
    for value in ((), [], ("",), (3,), ("3", None), None, 3, "12"):
        assert "normal must be a list, each item a string" in refusal(normal=value)


def test_serving_batch_sizes_are_a_list_of_integers():
    assert Config().replace(serving_batch_sizes=[4]).serving.serving_batch_sizes == (4,)
    for value in ((), (0,), (1, 4097), ("8",), (2.0,), (True,), None, 8, "8"):
        message = refusal(serving_batch_sizes=value)
        possible = "a list, each item an integer from 1 to 4096"
        assert message == f"serving_batch_sizes must be {possible}. Received: {value!r}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("epochs", "an integer from 0 to 1e+06"),
        ("alpha", "a number from 0 to 1000"),
        ("beta", "none or a number from 0 to 1000"),
        ("views", "0, 1, 2, 4 or 8"),
        ("embedding", "stages, encoder or projection"),
        ("score", "image, local or both"),
        ("optimizer", "sgd, lars, lamb or adamw"),
        ("standardize", "true or false"),
        ("encoder_weights", "a string"),
        ("method", "weighted, sum, mean or min"),
        ("precision", "float32, bfloat16, float16 or float64"),
        ("shrinkage", "ledoit_wolf, none or a number from 0 to 1"),
        ("resume", "true or false"),
        ("dataset", "a string"),
    ],
)
def test_messages_say_what_is_possible(name, words):
    assert refusal(**{name: -1.5}) == f"{name} must be {words}. Received: -1.5"


def test_check_accepts_a_valid_value():
    check(FIELDS["epochs"], 3)
    with pytest.raises(UsageError, match="epochs must be an integer"):
        check(FIELDS["epochs"], -3)


def test_the_constructor_checks_its_groups():
    with pytest.raises(UsageError, match="seed must be"):
        Config(data=DataConfig(seed=-1))


# Copies and differences.


@pytest.mark.parametrize("name", FIELDS)
def test_replace_changes_one_field_only(name):
    before = Config()
    after = before.replace(**{name: other_value(name)})
    assert before == Config()
    assert value_of(after, name) == other_value(name) != value_of(before, name)
    assert {n for n, v in after.flat().items() if v != before.flat()[n]} == {name}


def test_replace_changes_several_groups_at_once():
    config = Config().replace(encoder="small", epochs=3, alpha=0.5)
    assert (config.model.encoder, config.training.epochs, config.loss.alpha) == ("small", 3, 0.5)
    assert config.replace(epochs=400, encoder="resnet18", alpha=0.05) == Config()
    assert Config().replace() == Config()


@pytest.mark.parametrize("name", ["nonsense", "data", "Epochs", "mode"])
def test_unknown_fields_are_refused(name):
    message = refusal(**{name: 1})
    assert message.endswith(f"Received: {name}")
    for field in FIELDS:
        assert field in message


def test_differences_are_the_fields_that_change_results():
    for name in FIELDS:
        other = Config().replace(**{name: other_value(name)})
        default = {"learning_rate": 0.3, "beta": 5.0, "views": 8}.get(name, FIELDS[name].default)  # those in force
        expected = [] if name in RUNTIME else [f"{name}: {default!r}, not {other_value(name)!r}"]
        assert Config().differences(other) == expected
        assert Config().differences(other, of_training=True) == ([] if name in NOT_OF_TRAINING else expected)
    assert Config().differences(Config()) == []
    both = Config().differences(Config().replace(epochs=3, seed=1, run_dir="there"))
    assert both == ["seed: 0, not 1", "epochs: 400, not 3"]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        ({}, {"learning_rate": 0.3, "beta": 5.0, "views": 8}, []),
        ({"labelled": True}, {"labelled": True, "beta": 2.0}, []),
        ({"freeze_encoder": True}, {"freeze_encoder": True, "views": 2}, []),
        # Of options that follow from each other, the one that was given is named.
        ({}, {"optimizer": "adamw"}, ["optimizer: 'sgd', not 'adamw'"]),
        ({}, {"temperature": 0.1}, ["temperature: 0.2, not 0.1"]),
        ({"learning_rate": 0.1}, {}, ["learning_rate: 0.1, not 0.3"]),
        ({}, {"shrinkage": None}, ["shrinkage: 'ledoit_wolf', not none"]),
    ],
)
def test_differences_are_those_of_the_values_in_force(mine, theirs, expected):
    assert Config().replace(**mine).differences(Config().replace(**theirs)) == expected


# JSON.


def test_json_round_trip():
    changed = Config().replace(**{name: other_value(name) for name in FIELDS})
    numbers = Config().replace(temperature=0.1 + 0.2, shrinkage=0.1, normal=["a", "ü"], view_area=[1.0, 0.25])
    for config in (Config(), changed, numbers):
        text = config.to_json()
        assert Config.from_json(text) == config
        assert set(json.loads(text)) == set(GROUPS)
    assert isinstance(Config.from_json(changed.to_json()).data.normal, tuple)


def test_json_may_omit_fields():
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
def test_other_texts_than_configurations_are_refused(text):
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
    with pytest.raises(UsageError, match="Received: epochs"):
        Config.from_json(text)


# Plain values.


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("labelled", np.bool_(True), True),
        ("encoder", np.str_("small"), "small"),
        ("encoder", pathlib.Path("mine.keras"), "mine.keras"),
        ("run_dir", pathlib.Path("runs", "one"), "runs/one"),
        ("normal", np.array(["good", "fine"]), ("good", "fine")),
        ("normal", [np.str_("good")], ("good",)),
        ("serving_batch_sizes", np.array([1, 4]), (1, 4)),
        ("serving_batch_sizes", [np.int64(8)], (8,)),
        ("seed", np.array(3), 3),
        ("beta", np.float32(2.0), 2.0),
        ("pass_rate", fractions.Fraction(3, 4), 0.75),
        ("temperature", np.float32(0.5), 0.5),
    ],
)
def test_options_become_plain_values(name, value, expected):
    for config in (
        Config().replace(**{name: value}),
        Config(**{GROUP_OF[name]: GROUPS[GROUP_OF[name]](**{name: value})}),
    ):
        found = value_of(config, name)
        assert found == expected
        assert type(found) is type(expected)
        if isinstance(found, tuple):
            assert {type(item) for item in found} == {type(expected[0])}
        assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", PATHS)
def test_the_home_folder_is_expanded_in_paths(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert value_of(Config().replace(**{name: "~/a~b.keras"}), name) == "/home/me/a~b.keras"
    assert value_of(Config().replace(**{name: "there/~.keras"}), name) == "there/~.keras"


def test_the_home_folder_is_not_expanded_in_class_names():
    assert Config().replace(normal=["~"]).data.normal == ("~",)


@pytest.mark.parametrize("value", [np.float64(3.0), np.array([1, 2]), np.bool_(True), pathlib.Path("3")])
def test_plain_values_are_checked_like_others(value):
    assert "epochs must be an integer" in refusal(epochs=value)
