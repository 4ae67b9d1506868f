"""The parts of the main job: run directory, test scores, callbacks and results. test_main.py runs the whole job."""

import csv
import dataclasses
import json
import logging

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from mcl_tf import experiment, fitting, scored_test
from mcl_tf.config import Config
from mcl_tf.data.tasks import Task
from mcl_tf.detector import AnomalyDetector, make_scorer
from mcl_tf.errors import UsageError
from mcl_tf.report import drawing
from mcl_tf.scoring import METHODS
from mcl_tf.summaries.training import PeriodicEvaluation, Profile, TrainingCurves, TrainingOverview
from mcl_tf.training.trainer import build_model

CONFIG = Config().replace(encoder="small", width=0.25, projection_hidden=16, projection_dim=8, epochs=0, batch_size=8)


METRICS = {"auroc", "auroc_low", "auroc_high", "aupr_anomaly", "aupr_normal", "fpr_at_95_tpr"}


def draw_images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def task():
    """Noise as training images; darker noise as anomalies among 12 test images, the odd ones."""
    images, is_anomaly = draw_images(12, seed=1), np.arange(12) % 2 == 1
    images[is_anomaly] //= 3
    names = [f"test/{index}.png" for index in range(12)]
    labels = ["dark" if anomaly else "bright" for anomaly in is_anomaly]
    test = tf.data.Dataset.from_tensor_slices((images, is_anomaly, names, labels))
    return Task(("bright",), 16, 16, draw_images(20), np.zeros(20, np.int32), test)


@pytest.fixture(scope="module")
def detector(task):
    return AnomalyDetector(CONFIG).fit(task.train, class_names=task.class_names)


@pytest.fixture(scope="module")
def scored(detector, task):
    return scored_test.score_test(detector.scorer_, task.test)


# The run directory.


def test_a_run_directory_is_claimed_by_its_configuration(tmp_path):
    config = CONFIG.replace(run_dir=str(tmp_path / "runs" / "one"))
    assert experiment.claim_directory(config) == tmp_path / "runs" / "one"
    assert Config.from_json((tmp_path / "runs" / "one" / "config.json").read_text()) == config
    # Options that change no result may differ.
    experiment.claim_directory(config.replace(checkpoint_every=5, resume=False))
    with pytest.raises(UsageError, match=r"another configuration \(seed: 0, not 1; epochs: 0, not 3\)"):
        experiment.claim_directory(config.replace(seed=1, epochs=3))
    assert Config.from_json((tmp_path / "runs" / "one" / "config.json").read_text()) == config


def test_a_worker_only_checks_the_run_directory(tmp_path):
    config = CONFIG.replace(run_dir=str(tmp_path / "run"))
    experiment.claim_directory(config, write=False)
    assert list(tmp_path.iterdir()) == []
    experiment.claim_directory(config)
    with pytest.raises(UsageError, match="seed: 0, not 1"):
        experiment.claim_directory(config.replace(seed=1), write=False)


def test_a_run_directory_with_a_damaged_configuration_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="config.json cannot be read, choose another run_dir"):
        experiment.claim_directory(CONFIG.replace(run_dir=str(tmp_path)))
    assert (tmp_path / "config.json").read_text() == "{"


def test_a_run_directory_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="run_dir .*file/run cannot be written: Not a directory"):
        experiment.claim_directory(CONFIG.replace(run_dir=str(tmp_path / "file" / "run")))


@pytest.mark.parametrize(("encoder", "slow"), [("small", False), ("resnet18", True)])
def test_describe_logs_data_and_devices(encoder, slow, task, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mcl_tf"), "propagate", True)  # main.py, if a test has called it, sets False
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    caplog.set_level("INFO", "mcl_tf")
    experiment.describe(CONFIG.replace(run_dir="there", encoder=encoder), task)
    assert caplog.messages[0].startswith("digits: 20 training images of bright, 16x16 pixels; no GPU, ")
    assert caplog.messages[0].endswith(" CPU cores; run directory there")
    assert [("takes very long" in message) for message in caplog.messages[1:]] == [True] * slow


# Scores of the test split.


def test_test_scores_are_those_of_the_detector(scored, detector, task):
    images, is_anomaly, names, labels = zip(*task.test.as_numpy_iterator(), strict=True)
    distances = detector.distances(np.stack(images))
    np.testing.assert_allclose(scored.scores, detector.decision_function(np.stack(images)), rtol=1e-5)
    np.testing.assert_allclose(scored.one_view, distances[:, 0, 0], rtol=1e-5)
    np.testing.assert_array_equal(scored.is_anomaly, is_anomaly)
    assert scored.names.tolist() == [name.decode() for name in names]
    assert scored.labels.tolist() == [label.decode() for label in labels]


def test_metrics_are_those_of_one_view_and_of_all_views(scored):
    metrics = scored.metrics()
    for part, scores in (("one_view", scored.one_view), ("self_ensemble", scored.scores)):
        assert metrics[part]["auroc"] == pytest.approx(roc_auc_score(scored.is_anomaly, scores))
        assert set(metrics[part]) == METRICS


def test_names_beyond_ascii_are_decoded(detector):
    parts = draw_images(2), [False, True], ["test/ü, 1.jpg", "測試/0.png"], ["gut", "schön"]
    found = scored_test.score_test(detector.scorer_, tf.data.Dataset.from_tensor_slices(parts))
    assert found.names.tolist() == ["test/ü, 1.jpg", "測試/0.png"]
    assert found.labels.tolist() == ["gut", "schön"]


@pytest.mark.parametrize(("count", "expected"), [(0, []), (7, [0, 1, 2, 3, 4, 5, 6]), (10, [0, 2, 4, 6, 8])])
def test_the_sample_of_the_test_split_is_spread_evenly(count, expected, monkeypatch):
    monkeypatch.setattr(scored_test, "MONITORED", 5)
    test = tf.data.Dataset.range(count).map(lambda index: (index, True))
    assert [int(index) for index, _ in scored_test.sample_test(test)] == expected


# Callbacks.


def test_evaluation_and_profile_are_optional(task, tmp_path):
    kinds = [type(callback) for callback in experiment.training_callbacks(CONFIG, task, tmp_path)]
    assert kinds == [TrainingOverview, TrainingCurves]
    config = CONFIG.replace(evaluate_every=3, profile_steps=(4, 6))
    callbacks = experiment.training_callbacks(config, task, tmp_path)
    assert [type(callback) for callback in callbacks[2:]] == [Profile, PeriodicEvaluation]
    assert (callbacks[2].first, callbacks[2].last, callbacks[3].every) == (4, 6, 3)
    assert callbacks[0].images.shape == (6, 16, 16, 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_evaluation_gives_the_metrics_of_the_model_and_does_not_change_it(ema, task, detector, tmp_path):
    """With moving averages, it evaluates these."""
    config = CONFIG.replace(evaluate_every=1, ema=ema)
    model = build_model(config, 16)
    if ema:  # scrambled weights, and averages with the initial weights of `detector`
        for weight in model.trainable_variables:
            weight.assign(tf.random.stateless_normal(weight.shape, [1, 2]))
    before = model.get_weights()
    evaluation = experiment.training_callbacks(config, task, tmp_path)[-1]
    found = evaluation.evaluate(model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)

    scorer = make_scorer(build_model(CONFIG, 16), CONFIG, 1)
    held_out = experiment.select_held_out(task.train_labels, CONFIG)
    assert held_out.sum() == 10
    fitting.fit_gaussians(scorer, task.train[~held_out], task.train_labels[~held_out])
    fitting.fit_units(scorer, task.train[~held_out], task.train[~held_out])
    expected = scored_test.score_test(scorer, task.test).metrics()
    assert found.metrics() == {name: pytest.approx(part) for name, part in expected.items()}


# Results.


EVERYTHING = ["detector", "metrics.json", "report.html", "report.png", "result", "saved_model", "scores.csv"]


@pytest.fixture
def exports(detector, monkeypatch):
    """The arguments of every export, which is not made, because it takes seconds."""
    calls = []

    def export(path, **options):
        calls.append(options)
        path.mkdir()
        return str(path)

    monkeypatch.setattr(detector, "export", export, raising=False)
    return calls


@pytest.fixture
def quick(scored, monkeypatch):
    """The test split is scored already; picture, page and what TensorBoard shows are empty."""
    monkeypatch.setattr(experiment, "score_test", lambda scorer, test: scored)
    monkeypatch.setattr(experiment.evaluation, "plot_report", lambda path, *rest: path.touch())
    monkeypatch.setattr(drawing, "write_page", lambda path, *rest: path.touch())
    monkeypatch.setattr(experiment, "write_result", lambda *arguments: arguments[-1].mkdir())


def test_finish_writes_all_results(scored, detector, task, exports, tmp_path):
    report = experiment.finish(detector, task, tmp_path)
    assert exports == [{"format": "saved_model", "images": None, "new_version": True, "metrics": report}]
    assert json.loads((tmp_path / "metrics.json").read_text()) == report
    assert report["dataset"] == "digits"
    assert report["normal"] == ["bright"]
    assert {name: report[name] for name in ("one_view", "self_ensemble")} == scored.metrics()
    assert (report["threshold"], report["promised_rate"]) == (detector.threshold_, 1 / 11)
    assert (report["score"], report["restarts"]) == ("image", 0)
    flagged = scored.scores > detector.threshold_
    assert report["at_threshold"] == {
        "anomalies_found": np.mean(flagged[1::2]),
        "normals_flagged": np.mean(flagged[::2]),
    }
    assert report["images"] == {"train": 10, "calibration": 10, "test_normal": 6, "test_anomalous": 6}
    # The first view alone is that of the other result, whose method has no effect on one view.
    assert report["ensembles"]["1"] == dict.fromkeys(METHODS, pytest.approx(report["one_view"]["auroc"]))
    anomalous, (rotations, flipped) = np.arange(12) % 2, (scored.distances[:, 0::2], scored.distances[:, 1::2])
    summed = {"4": rotations.sum((1, 2)), "8": (rotations + flipped).sum((1, 2))}
    for views, scores in summed.items():
        assert report["ensembles"][views]["sum"] == pytest.approx(roc_auc_score(anomalous, scores))
    (dark,) = report["anomalous_classes"]  # all anomalies are of one class
    areas = {name: value for name, value in report["self_ensemble"].items() if "auroc" in name}
    assert dark == {"class": "dark", "images": 6, **{name: pytest.approx(value) for name, value in areas.items()}}
    assert "of the normal images of the test" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"test/{index}.png" for index in range(12)]
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == EVERYTHING


@pytest.fixture
def separated(task):
    """Scores of 12 images: the anomalies of the first part are found, half of those of the second one."""
    names = task.test.map(lambda image, is_anomaly, name, label: name)
    scores = np.array([0, 5, 1, 6, 2, 7, 3, 8, 4, 0.5, 0.6, 9.0], np.float32)
    is_anomaly = np.arange(12) % 2 == 1
    labels = np.where(is_anomaly, "dark", np.where(np.arange(12) < 6, "bright", "light"))
    is_anomaly[10] = True
    nearest = np.array([0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0], np.int32)
    return scored_test.TestScores(np.array(list(names)), labels, is_anomaly, -scores, scores, nearest)


def test_a_report_has_the_accuracy_and_every_set_of_anomalies(
    separated, detector, task, exports, monkeypatch, tmp_path
):
    monkeypatch.setattr(experiment, "score_test", lambda scorer, test: separated)
    parts = (("digits", 9), ("uniform", 2), ("blobs", 1))
    several = dataclasses.replace(task, class_names=("bright", "light"), test_parts=parts)
    report = experiment.finish(detector, several, tmp_path)
    # Normal are the images 0, 2, 4, 6, 8; of these, 2 is nearest to the wrong class.
    assert report["accuracy"] == 0.8
    assert [(row["name"], row["anomalies"]) for row in report["outliers"]] == [
        ("other classes", 4),
        ("uniform", 2),
        ("blobs", 1),
    ]
    # Of the normal scores 0, 1, 2, 3, 4, one is below 0.5 and 0.6.
    assert [row["self_ensemble"]["auroc"] for row in report["outliers"]] == pytest.approx([1.0, 0.2, 1.0])
    assert [row["one_view"]["auroc"] for row in report["outliers"]] == pytest.approx([0.0, 0.8, 0.0])
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["outliers"] == report["outliers"]
    with open(tmp_path / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["anomalies"], float(row["AUROC, SEI"])) for row in rows] == [
        ("other classes", 1.0),
        ("uniform", 0.2),
        ("blobs", 1.0),
    ]
    assert "| uniform | 2 | 0.8000 | 0.2000 |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_models_for_other_devices_are_results(precision, quick, detector, task, exports, tmp_path, monkeypatch):
    config = detector.config.replace(export=("litert", "onnx"), litert_precision=precision)
    monkeypatch.setattr(detector, "config", config)
    (tmp_path / "model.onnx").mkdir()  # in its way
    with pytest.raises(UsageError, match="Some results could not be written to .*model.onnx: "):
        experiment.finish(detector, task, tmp_path)
    written = {*EVERYTHING, "model.tflite", "model.onnx"} - {"saved_model"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(written)
    litert, onnx = exports
    assert [(call["format"], call["new_version"]) for call in exports] == [("litert", False), ("onnx", False)]
    assert onnx["images"] is None
    if precision == "float16":
        assert litert["images"] is None
    else:
        held_out = task.train[experiment.select_held_out(task.train_labels, CONFIG)]
        assert np.array_equal([image for image, *_ in litert["images"].as_numpy_iterator()], held_out)


@pytest.mark.parametrize("names", [None, tuple(f"{index}.png" for index in range(20))])
def test_without_test_images_the_held_out_ones_are_scored(names, detector, task, exports, tmp_path, library_log):
    alone = dataclasses.replace(task, test=None, has_anomalies=False, train_names=names)
    report = experiment.finish(detector, alone, tmp_path)
    assert not {"one_view", "self_ensemble"} & set(report)
    assert report["anomalous_classes"] == []
    # The threshold is their highest score, so that none is above it.
    assert report["at_threshold"] == {"normals_flagged": 0.0}
    assert report["images"] == {"train": 10, "calibration": 10, "test_normal": 0, "test_anomalous": 0}
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    held_out = np.flatnonzero(experiment.select_held_out(task.train_labels, CONFIG))
    assert [row["id"] for row in rows] == [names[i] if names else f"digits/train/{i}" for i in held_out]
    scores = np.sort([float(row["score"]) for row in rows])
    np.testing.assert_allclose(scores, np.sort(detector.calibration_scores_), rtol=1e-4, atol=1e-5)
    assert {(row["label"], row["is_anomaly"]) for row in rows} == {("bright", "0")}
    assert "no AUROC, because there are no anomalies for the test. 10 normal images" in library_log.messages[-1]
    assert "0 of them are above the threshold" in library_log.messages[-1]
    assert "held out from training" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in tmp_path.iterdir()) == EVERYTHING
    kinds = [type(c) for c in experiment.training_callbacks(CONFIG.replace(evaluate_every=3), alone, tmp_path)]
    assert kinds == [TrainingOverview, TrainingCurves]
    assert "evaluate_every has no effect" in library_log.messages[-1]


@pytest.mark.parametrize("name", ["detector", "metrics.json", "saved_model", "scores.csv"])
def test_a_result_that_cannot_be_written_does_not_keep_the_others_from_it(
    name, quick, detector, task, exports, tmp_path
):
    if name == "detector":
        (tmp_path / name).write_text("in its way")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match=f"Some results could not be written to {tmp_path}.*{name}: ") as error:
        experiment.finish(detector, task, tmp_path)
    assert "\n" not in str(error.value)
    for other in {*EVERYTHING} - {name}:
        assert (tmp_path / other).exists()
        assert f"{other}: " not in str(error.value)


@pytest.mark.parametrize(("place", "name"), [("evaluation.plot_report", "report.png"), ("write_page", "report.html")])
def test_a_picture_that_cannot_be_drawn_is_a_warning(
    place, name, quick, detector, task, exports, tmp_path, monkeypatch, library_log
):
    def fail(*args):
        raise ValueError("a font\nis missing")

    monkeypatch.setattr(f"mcl_tf.report.drawing.{place}", fail)
    report = experiment.finish(detector, task, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == report
    assert f"{tmp_path / name} could not be drawn: a font is missing" in library_log.messages
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({*EVERYTHING} - {name})


def test_the_detector_is_there_if_the_test_images_are_gone(detector, task, exports, tmp_path):
    def read():
        yield from ()
        raise OSError("gone")

    gone = tf.data.Dataset.from_generator(read, output_signature=task.test.element_spec)
    with pytest.raises(UsageError, match=f"The test images can no longer be read, see {tmp_path}: "):
        experiment.finish(detector, dataclasses.replace(task, test=gone), tmp_path)
    assert AnomalyDetector.load(tmp_path).threshold_ == detector.threshold_


def test_targets_are_tried_before_the_training(task, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "build_task", lambda *args: task)
    monkeypatch.setattr(AnomalyDetector, "fit", None)
    config = CONFIG.replace(run_dir=str(tmp_path))
    experiment.claim_directory(config)
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(UsageError, match="a file .*scores.csv. Received: a folder"):
        experiment.run(config)


def test_a_directory_with_files_of_the_same_names_is_not_claimed(tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    with pytest.raises(UsageError, match="holds no run, .* Received: scores.csv$"):
        experiment.claim_directory(CONFIG.replace(run_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]
