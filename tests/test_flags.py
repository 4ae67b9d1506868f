"""Command-line flags: one per field of the configuration, and those of file scoring."""

import copy
import pathlib

import pytest
from absl import flags as absl_flags
from config_fields import BOOLEANS, CONSTRAINTS, FIELDS, TEXTS, other_value

import flags
from flags.define import define, to_field
from mcl_tf.config import Config, DataConfig, check
from mcl_tf.errors import UsageError
from mcl_tf.tables.plans import TableOptions

OTHERS = ("mode", "saved_model", "heatmaps", "images", "output", "target", "manifest", "scores", "by")
TABLE = ("seeds", "splits", "known_classes", "baselines", "ablate")
PRESETS = sorted((pathlib.Path(flags.__file__).parent / "presets").glob("*.flags"))


def parse_flags(*arguments):
    """Parse a command line into a copy of the flags."""
    values = copy.deepcopy(absl_flags.FLAGS)
    values(["main.py", *arguments])
    return values


def parse(*arguments):
    """Return the configuration of a command line."""
    return flags.config_from_flags(parse_flags(*arguments))


def test_every_field_has_one_flag():
    by_module = absl_flags.FLAGS.flags_by_module_dict()
    found = [flag.name for module in flags.MODULES for flag in by_module[module.__name__]]
    assert sorted(found) == sorted([*FIELDS, *OTHERS, *TABLE])


@pytest.mark.parametrize("name", FIELDS)
def test_flags_have_the_defaults_and_ranges_of_their_fields(name):
    flag = absl_flags.FLAGS[name]
    default = to_field(FIELDS[name], flag.default)
    assert default == FIELDS[name].default
    assert type(default) is type(FIELDS[name].default)
    assert len(flag.help) > 20
    any_value = name in BOOLEANS or name in TEXTS or name == "normal"
    assert flag.help.endswith(f" Possible: {CONSTRAINTS[name]}.") == (not any_value)


def test_a_manifest_is_a_dataset():
    assert parse("--manifest=parts/all.csv", "--dataset=mnist") == Config().replace(dataset="parts/all.csv")
    with pytest.raises(absl_flags.IllegalFlagValueError, match="must be a file FILE.csv"):
        parse("--manifest=parts")


def test_no_flags_give_the_default_configuration():
    assert parse() == Config()


@pytest.mark.parametrize("name", FIELDS)
def test_every_flag_sets_its_field(name):
    value = other_value(name)
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    assert parse(f"--{name}={text}") == Config().replace(**{name: value})


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--normal=3, cat"], {"normal": ("3", "cat")}),
        (["--labelled"], {"labelled": True}),
        (["--labelled", "--nolabelled"], {}),
        (["--noresume"], {"resume": False}),
        (["--shrinkage=0.25"], {"shrinkage": 0.25}),
        (["--shrinkage=none"], {"shrinkage": None}),
        (["--shrinkage=None"], {"shrinkage": None}),
        (["--shrinkage=ledoit_wolf"], {}),
        (["--beta=2"], {"beta": 2.0}),
        (["--learning_rate=0.5", "--learning_rate=none"], {}),
        (["--method=sum", "--precision=float64"], {"method": "sum", "precision": "float64"}),
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
        pytest.param(f"--epochs=1{'0' * 400}", ["epochs", "an integer from 0 to 1e+06"], id="beyond float64"),
        ("--temperature=0", ["temperature", "from 0.001 to 100", "0.0"]),
        ("--temperature=nan", ["temperature", "from 0.001 to 100", "nan"]),
        ("--temperature=inf", ["temperature", "from 0.001 to 100", "inf"]),
        ("--views=3", ["views", "0, 1, 2, 4 or 8", "3"]),
        ("--encoder=vgg", ["encoder", "compact, small, resnet18", "a file FILE.keras", "vgg"]),
        ("--shrinkage=much", ["shrinkage", "ledoit_wolf, none or a number from 0 to 1", "much"]),
        ("--shrinkage=1.5", ["shrinkage", "ledoit_wolf, none or a number from 0 to 1", "1.5"]),
        ("--shrinkage=nan", ["shrinkage", "ledoit_wolf, none or a number from 0 to 1", "nan"]),
        ("--view_area=2", ["view_area", "a number from 0.01 to 1 or a list, each item a number from 0.01 to 1", "2"]),
        ("--view_area=1,0.5,0", ["view_area", "a list", "1,0.5,0"]),
        ("--view_area=1,,0.5", ["view_area", "a list", "1,,0.5"]),
        ("--normal=", ["normal"]),
        ("--serving_batch_sizes=1,many", ["serving_batch_sizes", "an integer from 1 to 4096", "many"]),
        ("--normal=1,,2", ["normal"]),
        ("--mode=serve", ["mode", "train|evaluate|score|threshold|drift", "serve"]),
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
        ("beta", "2", 2.0),
        ("beta", 2.0, 2.0),
        ("view_area", "0.5", 0.5),
        ("view_area", "1, 0.5", (1.0, 0.5)),
        ("normal", ["a ", " b"], ("a", "b")),
        ("serving_batch_sizes", ["8", " 32"], (8, 32)),
        ("dataset", "0.5", "0.5"),  # a string that looks like a number
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


def test_define_needs_the_help_of_every_field():
    with pytest.raises(TypeError, match="seed"):
        define(DataConfig, **{name: "help" for name in FIELDS if name != "seed" and hasattr(DataConfig, name)})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid(preset):
    assert parse(f"--flagfile={preset}") != Config()


def test_presets_exist():
    assert {path.stem for path in PRESETS} >= {"cpu", "demo"}


# Arguments of score_files.

FILES = {"saved_model": "model", "images": "shots/*.png", "output": "scores.csv"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),  # training resumes by default, file scoring does not
        (["--resume"], {"resume": True}),
        (["--resume=true", "--scoring_batch_size=16"], {"resume": True, "batch_size": 16}),
        (["--noresume", "--heatmaps=maps"], {"heatmaps": "maps"}),
    ],
)
def test_score_files_arguments(arguments, expected):
    values = parse_flags("--mode=score", *(f"--{name}={value}" for name, value in FILES.items()), *arguments)
    defaults = {"resume": False, "batch_size": 128, "heatmaps": ""}
    assert flags.score_files_arguments(values) == {**FILES, **defaults, **expected}


@pytest.mark.parametrize("missing", FILES)
def test_score_files_needs_all_files(missing):
    values = parse_flags("--mode=score", *(f"--{name}={value}" for name, value in FILES.items() if name != missing))
    with pytest.raises(UsageError, match=f"needs --saved_model, --images, --output. Received: no --{missing}"):
        flags.score_files_arguments(values)


def test_drift_arguments():
    values = parse_flags("--mode=drift", "--scores=scores.csv")
    expected = {"scores": "scores.csv", "saved_model": None, "output": None, "by": "day"}
    assert flags.drift_arguments(values) == expected
    with pytest.raises(UsageError, match="--mode=drift needs --scores. Received: no --scores"):
        flags.drift_arguments(parse_flags("--mode=drift", "--saved_model=m"))


def test_the_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse("--run_dir=~/r", "--dataset=~/d").flat()["run_dir"] == "/home/me/r"
    values = parse_flags("--mode=score", "--saved_model=~/m", "--images=~/*.png", "--output=~/o.csv")
    arguments = flags.score_files_arguments(values)
    expected = {"saved_model": "/home/me/m", "images": "/home/me/*.png", "output": "/home/me/o.csv"}
    assert {name: arguments[name] for name in expected} == expected


# Tables.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], None),
        (["--normal=1", "--anomaly_dataset=uniform,blobs"], None),
        (["--normal=each"], {}),
        (["--normal=each", "--seeds=0, 2", "--baselines"], {"seeds": (0, 2), "baselines": True}),
        (["--splits=5", "--known_classes=6", "--labelled"], {"splits": 5, "known_classes": 6}),
        (["--splits=5", "--known_classes=6", "--normal=1"], "--splits chooses the normal classes itself"),
        (["--splits=5"], "known_classes, .*Received: splits 5, known_classes 0"),
        (["--known_classes=5"], "Received: splits 0, known_classes 5"),
        (["--seeds=0,1"], "--seeds needs --ablate, --normal=each or --splits. Received: none of them"),
        (["--baselines"], "--baselines needs --normal=each or --splits. Received: none of them"),
        (["--normal=each", "--seeds=1,a"], "seeds must be integers. Received: 1,a"),
        (["--normal=each", "--seeds=1,1.5"], "seeds must be integers"),
        (["--normal=each", "--seeds=1,01"], "seeds must differ from each other. Received: 1,1"),
        (["--normal=each", "--seeds=-1"], "seed must be an integer from 0 to .* Received: -1"),
        (["--normal=each,1"], "normal must be each alone or classes. Received: each,1"),
        (["--normal=each", "--splits=2", "--known_classes=1"], "Splits choose"),
        (["--normal=each", "--labelled"], "labelled needs several normal classes"),
        (["--normal=each", "--strategy=multi_worker"], "A table runs on one machine"),
        (["--ablate", "--normal=1,2", "--labelled"], {"ablate": True}),
        (["--ablate", "--normal=each", "--seeds=0,1"], {"ablate": True, "seeds": (0, 1)}),
        (["--ablate", "--strategy=multi_worker"], "A table runs on one machine"),
        (["--ablate", "--freeze_encoder"], "compares trained networks by the score image. Received: freeze_encoder"),
        (["--ablate", "--score=both"], "by the score image. Received: score both"),
        (["--ablate", "--views=4"], "scores with 8 views, and with 1 and 4 of them. Received: views 4"),
        (["--ablate", "--loss=nt_xent"], "sets loss and rotations itself. Received: loss nt_xent"),
        (["--ablate", "--norotations"], "sets loss and rotations itself. Received: rotations False"),
        (["--ablate", "--spa_weight=0"], "leaves out the attraction itself. Received: spa_weight 0"),
        (["--ablate", "--baselines"], "Baselines do not depend on the training"),
    ],
)
def test_table_options(arguments, expected):
    values = parse_flags(*arguments)
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            flags.table_options(flags.config_from_flags(values), values)
    else:
        options = flags.table_options(flags.config_from_flags(values), values)
        assert options == (None if expected is None else TableOptions(**expected))


# Flags of other modes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--saved_model=m", "--images=i"), "--images needs --mode=score or --mode=threshold. Received: --mode=train"),
        (
            ("--saved_model=m",),
            "--saved_model needs --mode=score or --mode=threshold or --mode=drift. Received: --mode=train",
        ),
        (("--output=o",), "--output needs --mode=score or --mode=drift. Received: --mode=train"),
        (("--mode=drift", "--images=i"), "--images needs --mode=score or --mode=threshold. Received: --mode=drift"),
        (("--mode=score", "--by=hour"), "--by needs --mode=drift. Received: --mode=score"),
        (("--target=youden",), "--target needs --mode=threshold. Received: --mode=train"),
        (("--mode=score", "--epochs=3"), "--epochs needs --mode=train. Received: --mode=score"),
        (("--mode=score", "--normal=0"), "--normal needs --mode=train or --mode=threshold. Received: --mode=score"),
        (("--mode=score", "--target=f1"), "--target needs --mode=threshold. Received: --mode=score"),
        (
            ("--mode=threshold", "--output=o"),
            "--output needs --mode=score or --mode=drift. Received: --mode=threshold",
        ),
        (("--mode=threshold", "--noresume"), "--resume needs --mode=train or --mode=score. Received: --mode=threshold"),
        (("--mode=score", f"--flagfile={PRESETS[0]}"), "needs --mode=train. Received: --mode=score"),
    ],
)
def test_flags_of_another_mode_are_refused(arguments, message):
    with pytest.raises(UsageError) as error:
        flags.refuse_other_modes(parse_flags(*arguments))
    assert str(error.value).endswith(message)


@pytest.mark.parametrize(
    ("mode", "flag"), [("train", "normal=0"), ("score", "resume"), ("threshold", "normal=0"), ("drift", "by=hour")]
)
def test_flags_of_the_mode_are_accepted(mode, flag):
    flags.refuse_other_modes(parse_flags(f"--mode={mode}", f"--{flag}"))


def test_every_flag_belongs_to_a_mode():
    from flags.build import _flags_by_mode

    assert set().union(*_flags_by_mode().values()) == {*FIELDS, *OTHERS, *TABLE} - {"mode"}


def test_evaluation_arguments():
    values = parse_flags("--mode=evaluate", "--run_dir=runs/parts", "--views=1", "--noevidence")
    expected = {"run_dir": "runs/parts", "options": {"views": 1, "evidence": False}, "data_dir": ""}
    assert flags.evaluation_arguments(values) == expected
    with pytest.raises(UsageError, match="--mode=evaluate needs --run_dir. Received: no --run_dir"):
        flags.evaluation_arguments(parse_flags("--mode=evaluate", "--views=1"))
    with pytest.raises(UsageError, match="--epochs needs --mode=train. Received: --mode=evaluate"):
        flags.refuse_other_modes(parse_flags("--mode=evaluate", "--run_dir=runs/parts", "--epochs=3"))
