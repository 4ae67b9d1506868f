"""Tables of many runs: what is run, what is not repeated, what a table says of runs without a result."""

import csv
import json
import pathlib
import weakref

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from mcl_tf import experiment, run_directory
from mcl_tf.config import Config
from mcl_tf.detector import AnomalyDetector
from mcl_tf.errors import TrainingInterrupted, UsageError
from mcl_tf.scoring import METHODS
from mcl_tf.tables import plans, runner
from mcl_tf.tables.plans import TableOptions
from tests.helpers import DETECTOR_OPTIONS, read_files

FILES = ["results.csv", "results.json", "results.md"]


@pytest.fixture
def config(tiny_dataset, tmp_path):
    return Config().replace(
        **DETECTOR_OPTIONS, dataset="tiny_images", normal=("each",), data_dir=tiny_dataset, run_dir=str(tmp_path / "t")
    )


@pytest.fixture
def runs(monkeypatch):
    """The runs that were made, as (normal class, seed); they leave what a run leaves, but train nothing.

    `outcomes` has errors by class, which are raised instead.
    """
    made, outcomes = [], {}

    def run(config, load):
        name = config.data.normal[0]
        made.append((name, config.data.seed))
        directory = experiment.claim_directory(config)
        if name in outcomes:
            raise outcomes[name]
        value = {"red": 0.5, "green": 0.75, "blue": 1.0}[name] - config.data.seed / 8
        report = {"one_view": {"auroc": value / 2}, "self_ensemble": {"auroc": value}}
        report["ensembles"] = {views: dict.fromkeys(METHODS, value) for views in "148"}
        for path in (run_directory.DETECTOR, run_directory.SAVED_MODEL):
            (directory / path).mkdir()
        (directory / run_directory.METRICS).write_text(json.dumps(report))
        (directory / run_directory.SCORES).touch()
        return report

    monkeypatch.setattr(experiment, "run", run)
    return made, outcomes


def read(config):
    return json.loads((pathlib.Path(config.run.run_dir) / "results.json").read_text())


def test_every_class_with_every_seed(config, runs, capsys):
    table = runner.run(config, TableOptions(seeds=(0, 1)))
    assert runs[0] == [(name, seed) for name in ("red", "green", "blue") for seed in (0, 1)]
    record = read(config)
    assert record == table.record
    assert [row["self_ensemble"]["mean"] for row in record["rows"]] == [0.4375, 0.6875, 0.9375]
    assert (record["worst"], record["seeds"], record["mean"]["self_ensemble"]["mean"]) == ("red", [0, 1], 0.6875)
    assert "0.6875" in capsys.readouterr().out
    assert "AUROC) of <b>0.6875" in (pathlib.Path(config.run.run_dir) / "report.html").read_text()


def test_an_interrupted_table_has_the_runs_before_and_continues(config, runs):
    made, outcomes = runs
    outcomes["green"] = TrainingInterrupted("Stopped", 143)
    with pytest.raises(TrainingInterrupted):
        runner.run(config, TableOptions())
    assert [row["name"] for row in read(config)["rows"]] == ["red"]
    outcomes.clear()
    interrupted = runner.run(config, TableOptions()).record
    assert made == [(name, 3) for name in ("red", "green", "green", "blue")]  # the seed of the configuration
    # Without interruptions, the table is the same.
    assert runner.run(config.replace(run_dir=config.run.run_dir + "2"), TableOptions()).record == interrupted


def test_a_run_without_a_result_is_noted_and_the_table_goes_on(config, runs):
    made, outcomes = runs
    outcomes["green"] = UsageError("It collapsed")
    with pytest.raises(UsageError, match=r"1 of 3 runs have no result, see .*results.md: green \(seed 3\)$"):
        runner.run(config, TableOptions())
    assert [name for name, _ in made] == ["red", "green", "blue"]
    assert [row.get("failed") for row in read(config)["rows"]] == [None, {"3": "It collapsed"}, None]
    assert "It collapsed" in (pathlib.Path(config.run.run_dir) / "results.md").read_text()


def test_images_that_cannot_be_read_end_the_table(config, runs, monkeypatch):
    made, _ = runs

    def run(config, load):
        made.append(config.data.normal)
        load.__self__.failure = UsageError("a.png is damaged")
        raise load.__self__.failure

    monkeypatch.setattr(experiment, "run", run)
    with pytest.raises(UsageError, match="a.png is damaged"):
        runner.run(config, TableOptions())
    assert len(made) == 1


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("results.csv", "mine", "holds other results"),
        ("results.json", '{"table": "classes", "dataset": "other"}', "holds other results"),
        ("results.json", "[", "cannot be read"),
        ("config.json", "{}", "holds a run and no table"),
    ],
)
def test_other_contents_of_the_directory_are_refused(name, contents, message, config, runs, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / name).write_text(contents)
    with pytest.raises(UsageError, match=message):
        runner.run(config, TableOptions())
    assert runs[0] == []
    assert read_files(tmp_path / "t") == {name: contents.encode()}


@pytest.mark.parametrize(
    ("name", "message"), [("no_such_set", "no_such_set"), ("blobs+unresized", "never resized"), ("blobs,", "commas")]
)
def test_an_unknown_set_of_anomalies_is_refused_before_the_first_run(name, message, config, runs):
    with pytest.raises(UsageError, match=message):
        runner.run(config.replace(anomaly_dataset=name), TableOptions())
    assert runs[0] == []


def test_other_options_are_refused_before_the_first_run(config, runs):
    runner.run(config, TableOptions())
    with pytest.raises(UsageError, match="another configuration .epochs: 0, not 1"):
        runner.run(config.replace(epochs=1), TableOptions(seeds=(4, 3)))
    assert len(runs[0]) == 3


def test_splits_are_rows(config, runs):
    config = config.replace(normal=("0",))
    table = runner.run(config, TableOptions(splits=2, known_classes=1))
    assert table.record["table"] == "splits"
    assert len({name for name, _ in runs[0]}) == 2
    assert [row["name"] for row in table.record["rows"]] == [f"{i}: {name}" for i, (name, _) in enumerate(runs[0])]


def test_an_ablation_trains_every_variant(config, runs, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    table = runner.run(config.replace(run_dir="", normal=("red",)), TableOptions(ablate=True, seeds=(0, 1)))
    assert runs[0] == 4 * [("red", 0), ("red", 1)]
    folder = tmp_path / "runs" / "tiny_images-red-ablation"
    assert json.loads((folder / "results.json").read_text()) == table.record
    assert [variant["name"] for variant in table.record["variants"]] == [name for name, *_ in plans.ABLATION]
    assert [row[2] for row in table.rows] == [0.4375] * 12  # three numbers of views
    losses = {
        path.parts[-3]: json.loads(path.read_text())["loss"]["loss"] for path in folder.glob("*/seed-1/config.json")
    }
    assert losses == {"ccm": "masked", "ccm-spa": "masked", "nt-xent": "nt_xent", "no-rotations": "masked"}
    with pytest.raises(UsageError, match="holds other results"):
        runner.run(config.replace(run_dir=str(folder), normal=("blue",)), TableOptions(ablate=True))


def test_a_finished_run_leaves_no_graph_in_memory(config, runs, monkeypatch):
    """TensorFlow registers the gradients of a graph, and would keep it with them."""
    run, graphs = experiment.run, []

    @tf.custom_gradient
    def square(x):
        return x * x, lambda upstream: 3.0 * upstream

    def run_with_graph(config, load):
        function = tf.function(lambda x: tf.gradients(square(x), x), autograph=False)
        assert function(tf.constant(1.0))[0] == 3.0
        graphs.append(weakref.ref(function.get_concrete_function(tf.constant(1.0)).graph))
        return run(config, load)

    monkeypatch.setattr(experiment, "run", run_with_graph)
    runner.run(config, TableOptions())
    assert [graph() for graph in graphs] == [None] * 3


def test_baselines_are_measured_once(config, runs, monkeypatch):
    calls = []
    monkeypatch.setattr(runner.baselines, "aurocs", lambda config, load: calls.append(config) or {"knn_pixels": 0.25})
    for _ in range(2):
        table = runner.run(config, TableOptions(baselines=True))
        assert [row["knn_pixels"]["mean"] for row in table.record["rows"]] == [0.25] * 3
    assert len(calls) == 3


@pytest.mark.slow
def test_a_run_of_a_table_equals_the_run_alone(config, tmp_path, monkeypatch):
    """To the bit, although another run came before it."""
    monkeypatch.setattr(AnomalyDetector, "export", lambda self, path, **_: path.mkdir())
    monkeypatch.setattr(experiment, "draw_report", lambda *_: None)
    config = config.replace(epochs=1, calibration_fraction=0.2)
    _, last = runner.run(config, TableOptions(splits=2, known_classes=1)).record["rows"]
    experiment.run(config.replace(normal=last["normal"], run_dir=str(tmp_path / "alone")))
    alone, in_table = tmp_path / "alone", tmp_path / "t" / "split-1" / "seed-3"
    for name in ("metrics.json", "scores.csv"):
        assert (in_table / name).read_bytes() == (alone / name).read_bytes()
    one, other = (AnomalyDetector.load(path).scorer_.state() for path in (alone, in_table))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)
    *rows, mean = read_csv(tmp_path / "t" / "results.csv")
    expected = []
    for row, split in zip(rows, ("split-0/seed-3", "split-1/seed-3"), strict=True):
        scores = read_csv(tmp_path / "t" / split / "scores.csv")
        truth, values = ([float(image[name]) for image in scores] for name in ("is_anomaly", "score"))
        expected.append(roc_auc_score(truth, values))
        # The table has six digits, and a score in its file has nine.
        assert float(row["AUROC, SEI"]) == pytest.approx(expected[-1], abs=1e-6)
    assert float(mean["AUROC, SEI"]) == pytest.approx(np.mean(expected), abs=1e-6)


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
