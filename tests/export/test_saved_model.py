"""The SavedModel: it scores like the library wherever it is loaded, is replaced atomically, and has a threshold."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from mcl_tf import explanation
from mcl_tf.calibration import threshold_at
from mcl_tf.errors import UsageError
from mcl_tf.export import saved_model as saved_model_module
from mcl_tf.export import set_threshold, version_folders
from mcl_tf.export.model_card import read_card
from mcl_tf.export.saved_model import export_saved_model
from mcl_tf.scoring import self_ensemble
from tests.helpers import (
    CLASS_NAMES,
    DETECTOR_OPTIONS,
    SCORE_TOLERANCE,
    Killed,
    call_signature,
    fail_at,
    make_once,
    mixed_images,
    read_files,
    run_python,
    tinted_images,
    visible_names,
)

DTYPES = {
    "score": np.float32,
    "is_anomaly": np.bool_,
    "p_value": np.float32,
    "nearest_class": np.int32,
    "class_name": np.object_,
}
# The SavedModel resizes sizes other than the network's 16 x 16.
BATCHES = {
    "one": mixed_images(1, 16, 16, 11),
    "three": mixed_images(3, 16, 16, 12),
    "larger": mixed_images(6, 40, 28, 13),
    "smaller": mixed_images(5, 9, 12, 14),
    "empty": mixed_images(0, 16, 16, 15),
}

# A process that imports TensorFlow and nothing of this project.
LOAD_AND_SCORE = """
import sys

import numpy as np
import tensorflow as tf

model, images, results = sys.argv[1:]
serve = tf.saved_model.load(model).signatures["serving_default"]
outputs = {}
for batch, values in np.load(images).items():
    outputs.update({f"{batch}.{name}": value.numpy() for name, value in serve(images=tf.constant(values)).items()})
np.savez(results, **outputs)
assert "mcl_tf" not in sys.modules
"""

# Logical devices can only be set before TensorFlow starts, hence a process of its own.
TRAIN_ON_TWO_REPLICAS = """
import json
import sys

import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import mcl_tf

options, data, model, results = sys.argv[1:]
data = np.load(data)
replicas = []


class CountReplicas(tf.keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        replicas.append(self.model.distribute_strategy.num_replicas_in_sync)


detector = mcl_tf.AnomalyDetector(**json.loads(options), strategy="mirrored")
detector.fit(data["images"], data["labels"], callbacks=[CountReplicas()])
assert replicas == [2], replicas
detector.export(model)
np.save(results, detector.decision_function(data["images"]))
"""


@pytest.fixture(scope="module")
def saved_model(tiny_export):
    """The SavedModel of the tiny detector; tests that change it take a copy."""
    return tiny_export / "saved_model" / "1"


@pytest.fixture(scope="module")
def expected(tiny_detector):
    """The library's own answers: {batch: {output: array}}."""
    answers = {}
    for batch, images in BATCHES.items():
        outputs = tiny_detector.scorer_.evaluate_images(images)
        scores, classes = outputs["score"], outputs["nearest_class"]
        assert np.array_equal(scores, tiny_detector.decision_function(images))
        answers[batch] = {
            "score": scores,
            "is_anomaly": tiny_detector.predict(images).astype(bool),
            # By the definition, without a search in a sorted list.
            "p_value": p_values_by_definition(tiny_detector, scores),
            "nearest_class": classes,
            "class_name": np.array([CLASS_NAMES[label].encode() for label in classes], object),
        }
    return answers


def p_values_by_definition(detector, scores):
    """Return the share of the held-out images and the image itself that score at least as high."""
    held_out = detector.calibration_scores_
    return np.array([(1 + np.sum(held_out >= score)) / (1 + len(held_out)) for score in scores], np.float32)


def assert_same_answers(found, expected):
    """Check names, dtypes and values: scores and p-values to a tolerance, the others exactly."""
    assert set(found) == set(expected) == set(DTYPES)
    assert {name: values.dtype for name, values in found.items()} == DTYPES
    np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=SCORE_TOLERANCE)
    np.testing.assert_array_equal(found["is_anomaly"], expected["is_anomaly"])
    # A share of a few images: a server may multiply by its reciprocal.
    np.testing.assert_allclose(found["p_value"], expected["p_value"], rtol=1e-6)
    for name in ("nearest_class", "class_name"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_expected_answers_differ_between_images(expected):
    """Otherwise, a SavedModel with constant outputs would pass the tests below."""
    joined = {name: np.concatenate([expected[batch][name] for batch in BATCHES]) for name in DTYPES}
    assert set(joined["is_anomaly"]) == {False, True}
    assert set(joined["nearest_class"]) == {0, 1}
    # Images whose scores differ by more than the tolerance cannot be exchanged unnoticed.
    assert np.diff(np.sort(joined["score"])).min() > 2 * SCORE_TOLERANCE


@pytest.fixture(scope="module")
def answers_without_library(saved_model, tmp_path_factory):
    """The answers of the SavedModel in a process without this library."""

    def answer(folder):
        np.savez(folder / "images.npz", **BATCHES)
        run_python(LOAD_AND_SCORE, saved_model, folder / "images.npz", folder / "results.npz")

    folder = make_once(tmp_path_factory, "answers_without_library", answer)
    return np.load(folder / "results.npz", allow_pickle=True)  # class names are bytes objects


@pytest.mark.parametrize("batch", BATCHES)
def test_answers_like_the_library_without_it(batch, answers_without_library, expected):
    names = [name for name in answers_without_library.files if name.split(".")[0] == batch]
    assert_same_answers({name.split(".")[1]: answers_without_library[name] for name in names}, expected[batch])


@pytest.mark.parametrize("batch", BATCHES)
def test_answers_like_the_library_in_cpp(batch, run_cpp, saved_model, expected):
    found, process = run_cpp(saved_model, BATCHES[batch])
    assert process.returncode == 0, process.stderr
    assert_same_answers(found, expected[batch])


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (2, {"shape": (3, 16, 16)}),
        (3, {"shape": (2, 16, 16, 3)}),
        (4, {"saved_model": "nowhere"}),
        (5, {"signature": "predict"}),
        (6, {"shape": (3, 48, 8, 2)}),
        (6, {"shape": (3, 0, 16, 3), "batch": np.zeros(0, np.uint8)}),
    ],
)
def test_cpp_loader_fails_with_a_code_per_cause(code, change, run_cpp, saved_model):
    """A program that ended with 0 here could also end with 0 on a SavedModel that does not load."""
    found, process = run_cpp(**{"saved_model": saved_model, "batch": BATCHES["three"], **change})
    assert (process.returncode, found) == (code, {})


def test_graph_holds_one_network_and_nothing_of_training(saved_model, tiny_detector):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((saved_model / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    scorer = tiny_detector.scorer_
    convolutions = sum(layer.__class__.__name__ == "Conv2D" for layer in scorer.network.layers)
    assert convolutions > 0
    for function in graph.library.function:
        ops = [node.op for node in function.node_def]
        training = [n for n in function.node_def if n.op.startswith("FusedBatchNorm") and n.attr["is_training"].b]
        assert not training
        assert not [op for op in ops if "Random" in op or op.startswith("ResourceApply")]
        # The eight views of an image are one batch: no convolution appears eight times.
        assert ops.count("Conv2D") in (0, convolutions)
    reader = tf.train.load_checkpoint(str(saved_model / "variables" / "variables"))
    stored = sum(np.prod(shape, dtype=int) for shape in reader.get_variable_to_shape_map().values())
    assert not scorer.is_scaled  # several classes: no units
    used = [weight for weight in scorer.weights if weight is not scorer.standardization]
    needed = sum(weight.numpy().size for weight in used) + len(tiny_detector.calibration_scores_)
    assert stored == needed + 1  # every used weight once; the description of the checkpoint counts as one


# Other kinds of scores

KINDS = {
    "paper": {"evidence": False, "embedding": "encoder"},
    "one view": {"views": 1, "view_area": (0.8, 0.4)},
    "local": {"score": "local", "detail_size": 24},
    "both": {"score": "both", "detail_size": 24},
    "frozen, both": {"freeze_encoder": True, "score": "both", "detail_size": 24},
}


QUICK = ("both", "frozen, both")  # every kind takes some seconds to export; these have all parts


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in KINDS]
)
def kind(request, tmp_path_factory):
    """A detector of some kind and the folder of its SavedModel."""

    def train_and_export(folder):
        options = {**DETECTOR_OPTIONS, **KINDS[request.param], "image_size": 16}
        if "freeze_encoder" in options:
            layers = tf.keras.layers
            inputs = x = layers.Input((16, 16, 3))
            for width in (4, 5, 6):  # the last map has 2 x 2 places
                x = layers.Conv2D(width, 3, 2, "same", activation="relu")(x)
            encoder = tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
            rng = np.random.default_rng(0)
            encoder.set_weights([rng.normal(size=weight.shape) for weight in encoder.get_weights()])
            encoder.save(folder / "encoder.keras")
            options["encoder"] = str(folder / "encoder.keras")
        detector = mcl_tf.AnomalyDetector(**options).fit(tinted_images(40, 24, 24)[0])
        detector.save(folder / "detector")
        detector.export(folder / "saved_model", new_version=True)

    folder = make_once(tmp_path_factory, f"kind {request.param}", train_and_export)
    return mcl_tf.AnomalyDetector.load(folder / "detector"), folder / "saved_model" / "1"


@pytest.mark.parametrize("batch", ["one", "larger"])
def test_every_kind_of_score_is_that_of_the_library(batch, kind):
    detector, path = kind
    images = BATCHES[batch]
    outputs = detector.scorer_.evaluate_images(images)
    found = call_signature(path, "serving_default", images)
    # Distances of few images in many dimensions are large.
    np.testing.assert_allclose(found["score"], outputs["score"], rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(found["nearest_class"], outputs["nearest_class"])
    if len(images) > 1:
        assert np.ptp(outputs["score"]) > 0.01


@pytest.mark.parametrize("kind", ["paper"], indirect=True)
def test_the_exported_score_of_the_paper_combines_the_exported_distances(kind):
    _, path = kind
    images = BATCHES["larger"]
    distances = call_signature(path, "explain", images)["distances"]
    scores, _ = self_ensemble(distances, "weighted")
    np.testing.assert_allclose(call_signature(path, "serving_default", images)["score"], scores, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_explains_every_kind_of_score(count, kind):
    detector, path = kind
    scorer, images = detector.scorer_, mixed_images(count, 30, 24, 5)
    found = call_signature(path, "explain", images)
    views_ = scorer.view_count
    assert found["distances"].shape == (count, views_, 1)
    assert found["rotation"].shape == found["flipped"].shape == (count, views_)
    expected = scorer.distances(images)
    np.testing.assert_allclose(found["distances"], expected, rtol=1e-3)
    assert found["heat_map"].shape == (count, 30, 24)  # the size of the images, not of the network
    np.testing.assert_allclose(found["heat_map"], explanation.heat_map(scorer, images), atol=2e-3)


def test_another_threshold_for_every_kind_of_score(kind, tmp_path):
    detector, path = kind
    versions = shutil.copytree(path.parent, tmp_path / "saved_model")
    images = BATCHES["larger"]
    scores = call_signature(path, "serving_default", images)["score"]
    threshold = float(np.median(scores))
    found = call_signature(set_threshold(versions, value=threshold), "serving_default", images)
    np.testing.assert_array_equal(found["score"], scores)
    np.testing.assert_array_equal(found["is_anomaly"], scores > np.float32(threshold))
    assert 0 < found["is_anomaly"].sum() < len(images)


# Atomic writes


def test_export_replaces_a_model(tiny_detector, empty_served, tmp_path, expected, monkeypatch):
    with monkeypatch.context():
        export_saved_model(empty_served, tmp_path / "1", card={"name": "old"})
    old = tmp_path / "1"
    monkeypatch.undo()
    (tmp_path / "link").symlink_to("1")
    assert tiny_detector.export(tmp_path / "link") == str(old)
    assert_same_answers(call_signature(old, "serving_default", BATCHES["three"]), expected["three"])
    # TensorFlow Serving watches this folder: nothing but the version may lie in it.
    assert sorted(os.listdir(tmp_path)) == ["1", "link"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("path", [".", "letters", "letters/sub", "letters/a.txt", "link", "models", "/"])
def test_export_refuses_a_place_with_other_files(path, empty_served, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "letters" / "sub").mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt"):
        (tmp_path / "letters" / name).write_text("mine")
    (tmp_path / "link").symlink_to("letters")
    assert export_saved_model(empty_served, "models", new_version=True) == str(tmp_path / "models" / "1")
    before = read_files(tmp_path)
    with pytest.raises(UsageError, match="needs a folder of its own|is a folder") as error:
        export_saved_model(empty_served, path)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("new_version adds a version to a folder") == (path == "models")
    assert read_files(tmp_path) == before


@pytest.mark.parametrize("error", [OSError("No space left on device"), Killed(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("new_version", [False, True])
def test_export_leaves_a_whole_model_whatever_step_fails(new_version, error, empty_served, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a disk may take long
    for step in itertools.count():
        folder = tmp_path / str(step)
        path = folder if new_version else folder / "1"
        export_saved_model(empty_served, path, card={"name": "old"}, new_version=new_version)
        (folder / "note.txt").write_text("mine")
        with fail_at(monkeypatch, step, error) as fault:
            export_saved_model(empty_served, path, card={"name": "new"}, new_version=new_version, keep=1)
        found = [model for model in visible_names(folder) if model != "note.txt"]
        assert found
        for model in found:
            assert set(read_files(folder / model)) >= {"saved_model.pb", version_folders.MARK}
            assert json.loads((folder / model / "assets.extra" / "model_card.json").read_text())["name"]
        assert (folder / "note.txt").read_text() == "mine"
        if not fault.reached:
            break
    assert step > 10
    assert found == ["2" if new_version else "1"]


def test_failed_export_keeps_the_old_model(tiny_detector, saved_model, tmp_path, monkeypatch):
    old = shutil.copytree(saved_model, tmp_path / "1")
    before = read_files(old)

    def fail_midway(self, path, **kwargs):
        (pathlib.Path(path) / "saved_model.pb").write_bytes(b"half a model")
        raise OSError("No space left on device")

    # ExportArchive creates an object of a class of the backend.
    monkeypatch.setattr(type(tf.keras.export.ExportArchive()), "write_out", fail_midway)
    with pytest.raises(UsageError, match="/1 cannot be written: No space left on device$"):
        tiny_detector.export(old)
    assert read_files(old) == before
    # A server would load a half-written model that has the name of a version.
    assert visible_names(tmp_path) == ["1"]


@pytest.mark.parametrize("new_version", [False, True])
@pytest.mark.parametrize("step", ["write_card", "write_warmup"])
def test_export_that_fails_beside_the_graph_keeps_the_old_model(step, new_version, empty_served, tmp_path, monkeypatch):
    def export(name):
        path = tmp_path if new_version else tmp_path / "1"
        return export_saved_model(empty_served, path, card={"name": name}, batch_sizes=(1,), new_version=new_version)

    assert export("old") == str(tmp_path / "1")
    before = read_files(tmp_path)

    def fail(*args):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saved_model_module, step, fail)
        with pytest.raises(UsageError, match="cannot be written: No space left on device$"):
            export("new")
    assert read_files(tmp_path) == before
    assert os.listdir(tmp_path) == ["1"]
    assert export("new") == str(tmp_path / ("2" if new_version else "1"))


# Replicas


@pytest.mark.slow
def test_model_of_two_replicas_scores_in_python_and_cpp(tmp_path, run_cpp):
    images, labels = tinted_images(24)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    options = json.dumps({**DETECTOR_OPTIONS, "epochs": 1})
    run_python(TRAIN_ON_TWO_REPLICAS, options, tmp_path / "data.npz", tmp_path / "1", tmp_path / "scores.npy")
    scores = np.load(tmp_path / "scores.npy")
    in_python = call_signature(tmp_path / "1", "serving_default", images)["score"]
    np.testing.assert_allclose(in_python, scores, rtol=0, atol=SCORE_TOLERANCE)
    in_cpp, process = run_cpp(tmp_path / "1", images)
    assert process.returncode == 0, process.stderr
    np.testing.assert_allclose(in_cpp["score"], scores, rtol=0, atol=SCORE_TOLERANCE)


# Thresholds


@pytest.fixture
def versions(tiny_export, tmp_path):
    """A folder with version 1, which a test may change."""
    return shutil.copytree(tiny_export / "saved_model", tmp_path / "saved_model")


@pytest.mark.parametrize("options", [{"quantile": 0.5}, {"quantile": 0.0}, {"value": 3.25}])
def test_set_threshold_writes_a_new_version(options, versions, tiny_detector, run_cpp):
    before = read_files(versions / "1")
    path = set_threshold(versions / "1", **options)
    assert path == str(versions / "2")
    assert version_folders.versions(versions) == [1, 2]
    assert read_files(versions / "1") == before
    threshold = options.get("value")
    if threshold is None:
        threshold = threshold_at(tiny_detector.calibration_scores_, options["quantile"])
    images = mixed_images(6, 20, 20, 4)
    old, _ = run_cpp(versions / "1", images)
    new, process = run_cpp(path, images)
    assert process.returncode == 0, process.stderr
    np.testing.assert_array_equal(new["is_anomaly"], old["score"] > np.float32(threshold))
    for name in ("score", "p_value", "nearest_class", "class_name"):
        np.testing.assert_array_equal(new[name], old[name])
    np.testing.assert_array_equal(call_signature(path, "serving_default", images)["is_anomaly"], new["is_anomaly"])
    card = read_card(path)
    assert card["threshold"]["value"] == pytest.approx(threshold)
    assert card["threshold"]["quantile"] == options.get("quantile")
    assert card["threshold"]["changed_from_version"] == 1
    assert card["metrics"] == {"auroc": 0.5}


def test_set_threshold_changes_which_images_are_anomalies(versions):
    """Otherwise, a threshold that never changed anything could pass the test above."""
    images = mixed_images(6, 20, 20, 4)
    scores = np.sort(call_signature(versions / "1", "serving_default", images)["score"])
    path = set_threshold(versions, value=float(scores[2] + scores[3]) / 2)
    assert call_signature(path, "serving_default", images)["is_anomaly"].sum() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either quantile or value"),
        ({"quantile": 0.5, "value": 1.0}, "either quantile or value"),
        ({"quantile": 1.5}, "from 0 to 1. Received: 1.5"),
        ({"quantile": float("nan")}, "Received: nan"),
        ({"value": float("inf")}, "finite number. Received: inf"),
    ],
)
def test_set_threshold_refuses_wrong_values(options, message, versions):
    with pytest.raises(UsageError, match=message):
        set_threshold(versions, **options)
    assert visible_names(versions) == ["1"]


def test_set_threshold_adds_beside_a_version_that_is_a_link(tiny_export, tmp_path):
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "3").symlink_to(tiny_export / "saved_model" / "1")
    assert set_threshold(tmp_path / "versions", value=1.0) == str(tmp_path / "versions" / "4")


@pytest.mark.parametrize("error", [OSError("No space left on device"), Killed()], ids=["error", "kill"])
def test_set_threshold_leaves_the_old_version_whatever_step_fails(error, versions, monkeypatch):
    """A version that is there can be loaded, with its own threshold, and nothing else is gone."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a disk may take long
    before = read_files(versions / "1")
    (versions / "notes.txt").write_text("mine")
    for step in itertools.count():
        with fail_at(monkeypatch, step, error) as fault:
            set_threshold(versions / "1", value=2.5)
        assert read_files(versions / "1") == before
        assert (versions / "notes.txt").read_text() == "mine"
        for number in version_folders.versions(versions)[1:]:
            tensors, keys = saved_model_module._read_variables(versions / str(number))
            assert tensors[keys["threshold"]] == read_card(versions / str(number))["threshold"]["value"] == 2.5
            shutil.rmtree(versions / str(number))
        if not fault.reached:
            break
    assert step > 10


@pytest.mark.parametrize("kind", ["nowhere", "not a number", "no variables", "no card"])
def test_set_threshold_refuses_what_is_not_a_model_of_this_library(kind, versions, tmp_path):
    path = versions / "1"
    if kind == "nowhere":
        path = tmp_path / "1"
    elif kind == "not a number":
        path = path.rename(tmp_path / "model")
    elif kind == "no variables":
        shutil.rmtree(path / "variables")
    else:
        shutil.rmtree(path / "assets.extra")
    before = read_files(tmp_path)
    with pytest.raises(UsageError) as error:
        set_threshold(path, value=1.0)
    assert "\n" not in str(error.value)
    assert read_files(tmp_path) == before


# Command line of TensorFlow


@pytest.mark.slow
def test_saved_model_cli_shows_every_signature(saved_model):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--all"]
    process = subprocess.run([*command, "--dir", str(saved_model)], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    signatures = ("serving_default", "serving_bytes", "embed", "explain")
    for name in (*signatures, "image_bytes", "p_value", "class_name", "embedding", "distances", "flipped"):
        assert f"['{name}']" in process.stdout
