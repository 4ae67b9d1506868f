"""What a table consists of: rows, splits, folders and the configuration of every run."""

import pathlib

import pytest

from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.tables.plans import ABLATION, Row, TableOptions, make_rows, run_config

NAMES = ("red", "green", "blue", "grey")


def test_a_row_per_class_with_training_images():
    rows = make_rows(Config(), TableOptions(), NAMES, [0, 2])
    assert rows == [Row("red", ("red",), "red"), Row("blue", ("blue",), "blue")]


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a/b", "a%2Fb"), ("..", "%2E%2E"), (".", "%2E"), ("a.b", "a.b"), ("50%", "50%25"), ("bläulich", "bläulich")],
)
def test_folders_of_classes_lie_in_that_of_the_table(name, folder):
    (row,) = make_rows(Config(), TableOptions(), (name,), [0])
    assert (row.normal, row.folder) == ((name,), folder)
    config = run_config(Config().replace(run_dir="runs/x"), row, 7)
    assert pathlib.Path(config.run.run_dir) == pathlib.Path("runs/x") / folder / "seed-7"
    assert (config.data.normal, config.data.seed) == ((name,), 7)


def test_splits_are_seeded_and_differ_from_each_other():
    config, options = Config(), TableOptions(splits=6, known_classes=2)
    rows = make_rows(config, options, NAMES, range(4))
    assert len({row.normal for row in rows}) == 6  # all that there are
    assert all(len(set(row.normal)) == 2 and set(row.normal) < set(NAMES) for row in rows)
    assert rows[1].name == f"1: {rows[1].normal[0]}+{rows[1].normal[1]}"
    assert [row.folder for row in rows] == [f"split-{index}" for index in range(6)]
    assert make_rows(config, TableOptions(splits=3, known_classes=2), NAMES, range(4)) == rows[:3]
    assert make_rows(config.replace(seed=1), options, NAMES, range(4)) != rows


def test_an_ablation_repeats_the_rows_with_every_variant():
    config = Config().replace(normal=("0", "2"), run_dir="runs/x", epochs=7, spa_weight=0.5)
    rows = make_rows(config, TableOptions(ablate=True), NAMES, range(4))
    assert [row.title for row in rows] == [f"{name}, 0+2" for name, *_ in ABLATION]
    configs = [run_config(config, row, 1) for row in rows]
    assert all(one.data.normal == ("0", "2") for one in configs)
    folders = ("ccm", "ccm-spa", "nt-xent", "no-rotations")
    assert [one.run.run_dir for one in configs] == [f"runs/x/{folder}/seed-1" for folder in folders]
    changes = [{"spa_weight": 0.0}, {}, {"loss": "nt_xent"}, {"rotations": False}]
    alone = config.replace(seed=1)
    assert [one.replace(run_dir="runs/x") for one in configs] == [alone.replace(**change) for change in changes]

    each = make_rows(config.replace(normal=("each",)), TableOptions(ablate=True), NAMES, range(2))
    assert [row.folder for row in each] == [f"{folder}/{name}" for folder in folders for name in NAMES[:2]]


@pytest.mark.parametrize(
    ("splits", "known", "message"),
    [
        (7, 2, "2 of 4 classes give 6 different splits. Received: 7"),
        (1, 4, "known_classes must be smaller than the number of classes, 4. Received: 4"),
    ],
)
def test_impossible_splits_are_refused(splits, known, message):
    with pytest.raises(UsageError, match=message):
        make_rows(Config(), TableOptions(splits=splits, known_classes=known), NAMES, range(4))
