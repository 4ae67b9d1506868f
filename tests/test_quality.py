"""The comparison of benchmarks/quality.py: its table, its methods and its resumption."""

import json
import re
import sys
import types

import numpy as np
import pytest

from benchmarks import quality, quality_methods
from mcl_tf.config import Config
from mcl_tf.tables import plans

# Two classes and two seeds of one preset, and the features, which depend on neither.
KEY = {"dataset": "cifar10", "preset": "quick", "options": ""}
ROWS = [
    {**KEY, "method": "mcl", "normal": normal, "seed": seed, "seconds": seconds, "auroc": {"score": score, "SEI": sei}}
    for normal, seed, seconds, score, sei in (
        ("0", 1, 30.0, 0.80, 0.70),
        ("0", 2, 50.0, 0.90, 0.72),
        ("3", 1, 40.0, 0.60, 0.50),
        ("3", 2, 45.0, 0.70, 0.52),
    )
] + [
    {**KEY, "preset": "", "method": "features", "normal": normal, "seed": 0, "auroc": {"HOG": value}}
    for normal, value in (("0", 0.65), ("3", 0.55))
]


def cells(text):
    """Return {first cell: other cells} of the rows of a table in Markdown."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in rows}


def test_cells_are_means_over_the_seeds():
    found = cells(quality.table(ROWS))
    assert found[""] == ["0", "3", "mean", "worst seed"]
    assert found["mcl_tf, score"] == ["85.0", "65.0", "75.0", "60.0"]
    assert found["mcl_tf, SEI"] == ["71.0", "51.0", "61.0", "50.0"]
    assert found["nearest neighbours on HOG"] == ["65.0", "55.0", "60.0", "55.0"]


def test_the_text_names_seeds_and_seconds():
    text = quality.table(ROWS)
    assert text.startswith("# What is found\n")
    assert "## cifar10, preset `quick`\n" in text
    assert "Seeds: 1, 2. Training took 30 to 50 s per class.\n" in text


def test_the_text_says_where_other_trainings_ran_and_which_times_are_unknown():
    text = quality.table([{**ROWS[0], "seconds": None}, *ROWS[1:]])
    assert "took 40 to 50 s per class. The times of 1 of 4 trainings are unknown, because other work" in text
    text = quality.table([{**row, "seconds": None, "device": "a card"} for row in ROWS[:4]])
    assert "Seeds: 1, 2. All were trained on a card by `run_hlo.py`, and scored on a CPU.\n" in text
    text = quality.table([{**ROWS[0], "device": "a card"}, *ROWS[1:4]])
    assert "took 40 to 50 s per class. 1 of 4 were trained on a card by" in text


def test_presets_options_and_datasets_have_tables_of_their_own():
    others = [{**row, **change} for change in ({"options": "--a=1"}, {"dataset": "mvtec"}) for row in ROWS[:4]]
    text = quality.table(ROWS + others)
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [
        "cifar10, preset `quick`",
        "cifar10, preset `quick` --a=1",
        "mvtec, preset `quick`",
    ]
    # Simple features stand beside every preset of their dataset.
    assert text.count("nearest neighbours") == 2


def test_a_preset_that_trains_nothing_says_so():
    assert "The times are unknown" in quality.table([{**row, "seconds": None} for row in ROWS[:4]])
    text = quality.table([{**row, "seconds": 0.0} for row in ROWS[:4]])
    assert "Nothing was trained." in text
    assert "Training took" not in text


def test_kinds_of_anomalies_are_the_columns_of_a_folder():
    rows = [{**row, "by_kind": {"cut": row["auroc"], "hole": {name: 0.5 for name in row["auroc"]}}} for row in ROWS[:2]]
    found = cells(quality.table(rows))
    assert found[""] == ["cut", "hole", "mean", "worst seed"]
    assert found["mcl_tf, score"] == ["85.0", "50.0", "67.5", "50.0"]


def test_a_class_that_was_not_measured_is_empty():
    found = cells(quality.table([*ROWS[:2], {**ROWS[0], "normal": "7", "method": "rotation", "auroc": {"score": 0.4}}]))
    assert found["mcl_tf, score"] == ["85.0", "", "85.0", "80.0"]
    assert found["rotation prediction, score"] == ["", "40.0", "40.0", "40.0"]


def test_no_results_give_the_introduction():
    assert quality.table([]) == quality.INTRODUCTION


def test_the_table_in_the_repository_is_that_of_the_results():
    if not quality.RESULTS.exists():
        pytest.skip("benchmarks/quality.jsonl is missing")
    assert quality.TABLE.read_text() == quality.table(quality.read(quality.RESULTS))


# Simple features.


def test_grey_levels_match_numpy(rng):
    images = rng.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    found = quality_methods.grey_levels(images)
    for image, row in zip(images, found, strict=True):
        grey = np.array([sum(map(float, pixel)) / 3 for pixel in image.reshape(-1, 3)])
        expected = [grey.mean(), grey.std(), *np.percentile(grey, (1, 5, 25, 50, 75, 95, 99))]
        np.testing.assert_allclose(row, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("direction", "bin_"),
    [
        ((0, 1), 0),  # brighter to the right: the gradient has the angle 0
        ((1, 0), 4),  # brighter downwards: 90 degrees, in the fifth of nine bins of 20 degrees
        ((1, 1), 2),  # 45 degrees
        ((-1, 1), 6),  # 135 degrees
        ((-1, -1), 2),  # without sign: 225 degrees are 45
    ],
)
def test_the_orientation_of_a_ramp_is_that_of_its_gradient(direction, bin_):
    rows, columns = np.mgrid[:16, :16] - 8
    ramp = 128 + 5 * (direction[0] * rows + direction[1] * columns)
    found = quality_methods.hog(np.repeat(ramp[None, ..., None], 3, -1).astype(np.uint8), cells=4).reshape(16, 9)
    assert (found.argmax(1) == bin_).all()
    np.testing.assert_allclose(np.delete(found, bin_, axis=1), 0.0, atol=1e-6)
    assert (found[:, bin_] > 0.9).all()  # normalized per cell


def test_features_of_a_cell_do_not_depend_on_the_others(rng):
    images = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    changed = images.copy()
    changed[:, 8:, 8:] = 255 - changed[:, 8:, 8:] // 2
    before, after = (quality_methods.hog(x, cells=2).reshape(2, 2, 9) for x in (images, changed))
    np.testing.assert_array_equal(after[0, 0], before[0, 0])
    assert np.abs(after[1, 1] - before[1, 1]).max() > 0.01


def test_constant_images_have_features_of_zero():
    assert not quality_methods.hog(np.full((2, 16, 16, 3), 77, np.uint8)).any()


@pytest.mark.parametrize("side", [32, 35])
def test_features_have_one_number_per_cell_and_bin(side, rng):
    """Pixels beyond a whole number of cells are left out."""
    images = rng.integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    assert quality_methods.hog(images).shape == (3, 8 * 8 * 9)


def test_distances_to_the_nearest_images_find_anomalies(rng):
    train = rng.integers(90, 110, (30, 16, 16, 3), dtype=np.uint8)
    test = np.concatenate([rng.integers(90, 110, (10, 16, 16, 3)), rng.integers(20, 220, (10, 16, 16, 3))])
    rows = [(image.astype(np.uint8), False, "", b"") for image in test]
    task = types.SimpleNamespace(train=train, test=types.SimpleNamespace(as_numpy_iterator=lambda: iter(rows)))
    scores, _ = quality_methods.features(None, task)
    assert set(scores) == {"grey levels", "HOG"}
    for values in scores.values():
        assert values[10:].min() > values[:10].max()


def test_auroc_by_hand():
    # Of the pairs (anomaly, normal), 3 > 2, 3 > 0 and 1 > 0 are in order, 1 < 2 is not.
    assert quality._auroc([True, False, True, False], [3.0, 2.0, 1.0, 0.0]) == 0.75


# Other losses than the product's.

TRAINING = ("--normal=0,1,2,3,4,5", "--encoder=small", "--width=0.5", "--projection_hidden=16", "--dataset=digits")


@pytest.mark.parametrize(
    ("method", "options", "names"),
    [("classifier", ("--labelled", "--epochs=30"), {"confidence"}), ("rotation", ("--epochs=1",), {"score"})],
)
def test_other_losses_are_trained_and_scored(method, options, names):
    arguments = [*TRAINING, *options, "--batch_size=64", "--learning_rate=0.3"]
    result = quality.run(method, arguments)
    assert set(result["auroc"]) == names
    assert result["seconds"] > 0.0
    if method == "classifier":  # 120 steps suffice; four digits are unknown
        assert result["auroc"]["confidence"] > 0.8
        assert "by_kind" not in result


# Resumption.


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Function that runs the command line with a fake measurement; returns what was measured.

    A call may fail at its n-th measurement.
    """

    def call(*arguments, fail_at=None):
        measured = []

        def fake(function, method, flags):
            assert function is quality.run
            if len(measured) == fail_at:
                raise KeyboardInterrupt
            values = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
            measured.append((method, values["normal"], values["seed"]))
            return {"auroc": {"score": 0.5}, "seconds": 1.0}

        monkeypatch.setattr(quality, "run_in_process", fake)
        results = f"--results={tmp_path / 'results.jsonl'}"
        monkeypatch.setattr(sys, "argv", ["quality", results, *arguments])
        try:
            assert quality.main() == 0
        except KeyboardInterrupt:
            assert fail_at is not None
        return measured

    return call


def test_an_interrupted_comparison_is_resumed(measure, tmp_path):
    options = ("--normal=0,3", "--seeds=1,2", "--methods=mcl,rotation")
    first = measure(*options, fail_at=3)
    assert first == [("mcl", "0", "1"), ("rotation", "0", "1"), ("mcl", "3", "1")]
    second = measure(*options)
    assert second[0] == ("rotation", "3", "1")
    assert len(first + second) == len(set(first + second)) == 8
    assert measure(*options) == []
    rows = quality.read(tmp_path / "results.jsonl")
    assert [(row["method"], row["normal"], str(row["seed"])) for row in rows] == first + second
    assert all(row["auroc"] == {"score": 0.5} and row["dataset"] == "cifar10" for row in rows)


def test_features_are_measured_once_for_all_seeds_and_presets(measure):
    assert measure("--normal=0", "--seeds=1,2", "--methods=features") == [("features", "0", "1")]
    assert measure("--normal=0", "--preset=cpu_long", "--seeds=7", "--methods=features") == []


def test_other_options_are_measured_again(measure):
    options = ("--normal=0", "--seeds=1", "--methods=mcl")
    assert len(measure(*options)) == 1
    assert len(measure(*options, "--options=--image_size=96")) == 1
    assert len(measure(*options, "--preset=cpu_long")) == 1
    assert len(measure(*options, "--dataset=/data/cifar10")) == 0  # the folder's name is the dataset's


def test_all_ten_classes_are_measured_by_default(measure):
    assert [normal for _, normal, _ in measure("--seeds=1", "--methods=mcl")] == [str(n) for n in range(10)]


def test_splits_are_those_of_a_table(measure):
    found = [normal for _, normal, _ in measure("--splits=3", "--seeds=1", "--methods=mcl")]
    options = plans.TableOptions(splits=3, known_classes=6)
    rows = plans.make_rows(Config(), options, [str(number) for number in range(10)], range(10))
    assert found == [",".join(row.normal) for row in rows]
    assert len(set(found)) == 3
    # A further split adds a run and repeats none.
    assert len(measure("--splits=4", "--seeds=1", "--methods=mcl")) == 1


def test_other_results_do_not_change_the_table(measure, monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "TABLE", tmp_path / "quality.md")
    measure("--normal=0", "--seeds=1", "--methods=mcl")
    assert not (tmp_path / "quality.md").exists()


def test_the_table_alone_is_written_again_without_a_measurement(monkeypatch, tmp_path):
    results = tmp_path / "quality.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setattr(quality, "RESULTS", results)
    monkeypatch.setattr(quality, "TABLE", tmp_path / "quality.md")
    monkeypatch.setattr(quality, "run_in_process", lambda *args: pytest.fail("something is measured"))
    monkeypatch.setattr(sys, "argv", ["quality", "--table", f"--results={results}"])
    assert quality.main() == 0
    assert (tmp_path / "quality.md").read_text() == quality.table(ROWS)


def test_the_presets_of_the_comparison_exist():
    for name in ("cpu_quick", "cpu_long", "folder"):
        assert (quality.PRESETS / f"{name}.flags").is_file()
