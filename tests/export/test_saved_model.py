"""The SavedModel: what it gives must be the library's own scores, wherever it is loaded."""

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
from mcl_tf.scoring import self_ensemble

TESTS = pathlib.Path(__file__).parent.parent
OPTIONS = dict(
    encoder="small", width=0.25, projection_hidden=32, projection_dim=16, epochs=1, batch_size=8, seed=3
)
DTYPES = {
    "score": np.float32,
    "is_anomaly": np.bool_,
    "p_value": np.float32,
    "nearest_class": np.int32,
    "class_name": np.object_,
}
# Scores are float32 and mostly below 10: other kernels and fusions move them by 1e-6 or so, and other pictures by
# far more than 1e-4.
TOLERANCE = 1e-4

# A process that has TensorFlow and nothing else of this project.
LOADER = """
import sys

import numpy as np
import tensorflow as tf

model, pictures, results = sys.argv[1:]
serve = tf.saved_model.load(model).signatures["serving_default"]
found = {}
for batch, images in np.load(pictures).items():
    found.update({f"{batch}.{name}": value.numpy() for name, value in serve(images=tf.constant(images)).items()})
np.savez(results, **found)
assert "mcl_tf" not in sys.modules
"""

# Logical devices can only be set before TensorFlow starts, hence a process of its own.
MIRRORED = """
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


def watch(trainer):
    replicas.append(trainer.strategy.num_replicas_in_sync)
    return []


detector = mcl_tf.AnomalyDetector(**json.loads(options), strategy="mirrored")
detector.fit(data["images"], data["labels"], callbacks=watch)
assert replicas == [2], replicas
detector.export(model)
np.save(results, detector.decision_function(data["images"]))
"""


def tinted_pictures(count, height=16, width=16, seed=0):
    """Noise that is red (class 0) and blue (class 1) in turns: uint8 [count, height, width, 3], int [count]."""
    labels = np.arange(count) % 2
    tint = np.array([[120, 0, 0], [0, 0, 120]])[labels][:, None, None]
    noise = np.random.default_rng(seed).integers(0, 136, (count, height, width, 3))
    return (noise + tint).astype(np.uint8), labels


def mixed_pictures(count, height, width, seed):
    """Every third picture is green instead, which training never saw."""
    pictures = tinted_pictures(count, height, width, seed)[0]
    pictures[2::3] = pictures[2::3, ..., [1, 0, 1]] // 2 + np.array([0, 120, 0], np.uint8)
    return pictures


NAMES = (b"red", "bläulich".encode())

# Sizes other than the network's 16 x 16 are resized within the SavedModel.
BATCHES = {
    "one": mixed_pictures(1, 16, 16, 11),
    "three": mixed_pictures(3, 16, 16, 12),
    "larger": mixed_pictures(6, 40, 28, 13),
    "smaller": mixed_pictures(5, 9, 12, 14),
    "empty": mixed_pictures(0, 16, 16, 15),
}


def run_python(code, *arguments):
    """Runs a script in a fresh process that finds this project's sources; fails with what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def detector():
    return mcl_tf.AnomalyDetector(**OPTIONS, calibration_fraction=0.4).fit(
        *tinted_pictures(24), class_names=[name.decode() for name in NAMES]
    )


@pytest.fixture(scope="module")
def saved_model(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "not" / "there" / "1"
    assert detector.export(path) == str(path)
    return path


@pytest.fixture(scope="module")
def expected(detector):
    """The library's own answers: {batch: {output: array}}."""
    answers = {}
    for batch, images in BATCHES.items():
        scores, classes = self_ensemble(detector.distances(images), detector.config.scoring.method)
        assert np.array_equal(scores, detector.decision_function(images))
        answers[batch] = {
            "score": scores.numpy(),
            "is_anomaly": detector.predict(images).astype(bool),
            # By the definition, without the search of a sorted list.
            "p_value": np.float32([np.mean(detector.calibration_scores_ >= score) for score in scores.numpy()]),
            "nearest_class": classes.numpy(),
            "class_name": np.array([NAMES[label] for label in classes.numpy()], object),
        }
    return answers


@pytest.fixture(scope="module")
def served(saved_model, tmp_path_factory):
    """What the SavedModel answers in a process without this library."""
    folder = tmp_path_factory.mktemp("served")
    np.savez(folder / "pictures.npz", **BATCHES)
    run_python(LOADER, saved_model, folder / "pictures.npz", folder / "results.npz")
    return np.load(folder / "results.npz", allow_pickle=True)  # class names are bytes objects


@pytest.fixture(scope="session")
def cpp_loader(tmp_path_factory):
    """The program that loads a SavedModel as TensorFlow Serving does: {output: array} of a batch."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is missing, which builds the program that loads a SavedModel in C++")
    program = tmp_path_factory.mktemp("cpp") / "load_saved_model"
    libraries = tf.sysconfig.get_lib()
    # Without --no-as-needed the linker drops the library that registers the session.
    subprocess.run(
        [compiler, *tf.sysconfig.get_compile_flags(), "-w", str(TESTS / "cpp" / "load_saved_model.cc")]
        + ["-o", str(program), f"-L{libraries}", "-Wl,--no-as-needed", "-l:libtensorflow_cc.so.2"]
        + ["-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{libraries}"],
        check=True,
        timeout=300,
    )
    return program


def run_cpp(program, model, images, signature="serving_default", shape=None):
    """Answers of the C++ program to a batch: {output: array}, and the finished process."""
    pictures = program.parent / "pictures.bin"
    if isinstance(images, list):
        pictures.write_bytes(b"".join(len(content).to_bytes(8, sys.byteorder) + content for content in images))
        shape = str(len(images))
    else:
        images.tofile(pictures)
        shape = ",".join(map(str, shape or images.shape))
    command = [str(program), str(model), signature, str(pictures), shape]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    dtypes = {"float": np.float32, "bool": np.bool_, "int32": np.int32}
    answers = {}
    for name, dtype, shape, *values in map(str.split, done.stdout.splitlines()):
        if dtype == "string":
            found = np.array([bytes.fromhex(value[1:]) for value in values], object)
        else:
            found = np.array(values, np.float64).astype(dtypes[dtype])
        answers[name] = found.reshape([int(side) for side in shape.split(",")])
    return answers, done


def assert_same_answers(found, expected):
    """Same names, dtypes and values; scores, and where they fall among the held-out ones, to the tolerance."""
    assert set(found) == set(expected) == set(DTYPES)
    assert {name: values.dtype for name, values in found.items()} == DTYPES
    np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(found["is_anomaly"], expected["is_anomaly"])
    # A share of ten: a server may multiply by its reciprocal.
    np.testing.assert_allclose(found["p_value"], expected["p_value"], rtol=1e-6)
    for name in ("nearest_class", "class_name"):
        np.testing.assert_array_equal(found[name], expected[name])


def files_of(folder):
    """Every file's bytes by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_answers_tell_pictures_apart(expected):
    """Without this, a SavedModel with constant outputs would pass the tests below."""
    joined = {name: np.concatenate([expected[batch][name] for batch in BATCHES]) for name in DTYPES}
    assert set(joined["is_anomaly"]) == {False, True}
    assert set(joined["nearest_class"]) == {0, 1}
    # Pictures that lie further apart than the tolerance cannot change places unseen.
    assert np.diff(np.sort(joined["score"])).min() > 2 * TOLERANCE


@pytest.mark.parametrize("batch", BATCHES)
def test_fresh_process_answers_as_the_library(batch, served, expected):
    found = {name.split(".")[1]: served[name] for name in served.files if name.split(".")[0] == batch}
    assert_same_answers(found, expected[batch])


@pytest.mark.parametrize("batch", BATCHES)
def test_cpp_loader_answers_as_the_library(batch, cpp_loader, saved_model, expected):
    found, done = run_cpp(cpp_loader, saved_model, BATCHES[batch])
    assert done.returncode == 0, done.stderr
    assert_same_answers(found, expected[batch])


@pytest.mark.parametrize(
    ("code", "change"),
    [
        (2, {"shape": (3, 16, 16)}),
        (3, {"shape": (2, 16, 16, 3)}),
        (4, {"model": "nowhere"}),
        (5, {"signature": "predict"}),
        (6, {"shape": (3, 48, 8, 2)}),
        (6, {"shape": (3, 0, 16, 3), "images": np.zeros(0, np.uint8)}),
    ],
)
def test_cpp_loader_fails_with_its_own_code(code, change, cpp_loader, saved_model):
    """A program that ended with 0 here could end with 0 on a SavedModel that does not load, too."""
    answers, done = run_cpp(cpp_loader, **{"model": saved_model, "images": BATCHES["three"], **change})
    assert (done.returncode, answers) == (code, {})


def test_signature_is_the_documented_one(saved_model):
    signatures = tf.saved_model.load(str(saved_model)).signatures
    assert "serving_default" in signatures
    serve = signatures["serving_default"]
    (images,) = serve.structured_input_signature[1].values()
    assert (images.name, images.dtype, images.shape.as_list()) == ("images", tf.uint8, [None, None, None, None])
    outputs = {name: (spec.dtype, spec.shape.as_list()) for name, spec in serve.structured_outputs.items()}
    assert outputs == {
        "score": (tf.float32, [None]),
        "is_anomaly": (tf.bool, [None]),
        "p_value": (tf.float32, [None]),
        "nearest_class": (tf.int32, [None]),
        "class_name": (tf.string, [None]),
    }


def test_export_replaces_what_is_there(detector, tmp_path, expected):
    old = tmp_path / "1"
    (old / "variables").mkdir(parents=True)
    (old / "saved_model.pb").write_bytes(b"not a model")
    (old / "variables" / "left_over").write_text("from the old one")
    detector.export(old)
    serve = tf.saved_model.load(str(old)).signatures["serving_default"]
    found = {name: value.numpy() for name, value in serve(images=tf.constant(BATCHES["three"])).items()}
    assert_same_answers(found, expected["three"])
    assert not (old / "variables" / "left_over").exists()
    # TensorFlow Serving watches this folder: nothing but the version may lie in it.
    assert os.listdir(tmp_path) == ["1"]


def test_failed_export_leaves_the_old_one(detector, saved_model, tmp_path, monkeypatch):
    old = shutil.copytree(saved_model, tmp_path / "1")
    before = files_of(old)

    def fail_midway(self, path, **kwargs):
        pathlib.Path(path).mkdir()
        (pathlib.Path(path) / "saved_model.pb").write_bytes(b"half a model")
        raise OSError("No space left on device")

    # ExportArchive makes an object of the backend's own class.
    monkeypatch.setattr(type(tf.keras.export.ExportArchive()), "write_out", fail_midway)
    with pytest.raises(OSError, match="No space left"):
        detector.export(old)
    assert files_of(old) == before
    # A half-written model under a version's name would be served.
    assert [name for name in os.listdir(tmp_path) if not name.startswith(".")] == ["1"]


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A detector of two replicas: path of its SavedModel, pictures, its own scores of them."""
    folder = tmp_path_factory.mktemp("mirrored")
    images, labels = tinted_pictures(24)
    np.savez(folder / "data.npz", images=images, labels=labels)
    run_python(MIRRORED, json.dumps(OPTIONS), folder / "data.npz", folder / "1", folder / "scores.npy")
    return folder / "1", images, np.load(folder / "scores.npy")


@pytest.mark.slow
def test_two_replicas_export_for_python(mirrored):
    path, images, scores = mirrored
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    found = serve(images=tf.constant(images))["score"]
    np.testing.assert_allclose(found, scores, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_two_replicas_export_for_cpp(mirrored, cpp_loader):
    path, images, scores = mirrored
    found, done = run_cpp(cpp_loader, path, images)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(found["score"], scores, rtol=0, atol=TOLERANCE)
