"""Fixtures of the tests of exported models."""

import shutil
import subprocess
import sys
import tempfile
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import ROOT, make_once

_CPP_DTYPES = {"float": np.float32, "bool": np.bool_, "int32": np.int32}


@pytest.fixture(scope="session")
def cpp_program(tmp_path_factory):
    """The path of the program that loads a SavedModel as TensorFlow Serving does."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is missing, which compiles the program that loads a SavedModel in C++")

    def compile_into(folder):
        libraries = tf.sysconfig.get_lib()
        # Without --no-as-needed the linker drops the library that registers the session.
        subprocess.run(
            [compiler, *tf.sysconfig.get_compile_flags(), "-w", str(ROOT / "tests" / "cpp" / "load_saved_model.cc")]
            + ["-o", str(folder / "load_saved_model"), f"-L{libraries}", "-Wl,--no-as-needed"]
            + ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{libraries}"],
            check=True,
            timeout=300,
        )

    return make_once(tmp_path_factory, "cpp", compile_into) / "load_saved_model"


@pytest.fixture
def run_cpp(cpp_program):
    """Function that runs a signature in C++ and returns {output: array} and the finished process.

    It takes the folder of the SavedModel, a batch (an array of images or a list of encoded images), the name of the
    signature and, for a wrong one, the shape of the array.
    """

    def call(saved_model, batch, signature="serving_default", shape=None):
        with tempfile.NamedTemporaryFile() as file:
            if isinstance(batch, list):
                file.write(b"".join(len(content).to_bytes(8, sys.byteorder) + content for content in batch))
                shape = (len(batch),)
            else:
                file.write(batch.tobytes())
            file.flush()
            shape = ",".join(map(str, shape or batch.shape))
            command = [str(cpp_program), str(saved_model), signature, file.name, shape]
            process = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return dict(map(_parse_output, process.stdout.splitlines())), process

    return call


def _parse_output(line):
    """Parse a line "name dtype shape value value ..." and return name and array."""
    name, dtype, shape, *values = line.split()
    if dtype == "string":
        array = np.array([bytes.fromhex(value[1:]) for value in values], object)
    else:
        array = np.array(values, np.float64).astype(_CPP_DTYPES[dtype])
    return name, array.reshape([int(side) for side in shape.split(",")])


@pytest.fixture(scope="session")
def tiny_litert(tiny_detector, tmp_path_factory):
    """The path of the tiny detector's model for LiteRT."""
    folder = make_once(
        tmp_path_factory, "litert", lambda folder: tiny_detector.export(folder / "model.tflite", format="litert")
    )
    return folder / "model.tflite"


@pytest.fixture(scope="session")
def tiny_onnx(tiny_detector, tmp_path_factory):
    """The path of the tiny detector's model for ONNX Runtime; without its packages, tests are skipped."""
    for name in ("onnxruntime", "tf2onnx"):
        pytest.importorskip(name)
    folder = make_once(
        tmp_path_factory, "onnx", lambda folder: tiny_detector.export(folder / "model.onnx", format="onnx")
    )
    return folder / "model.onnx"


@pytest.fixture
def stand_in():
    """Function that makes a stand-in for a `ServedScorer` from a function of images [n, 4, 4, 3] to scores [n]."""

    def make(function, threshold=0.5, held_out=(0.0, 1.0, 1.0)):
        def score_batch(images):
            return {"score": function(images), "nearest_class": tf.zeros(tf.shape(images)[:1], tf.int32)}

        scorer = types.SimpleNamespace(
            network=None, image_size=4, threshold=np.float32(threshold), score_batch=score_batch
        )
        return types.SimpleNamespace(scorer=scorer, calibration_scores=np.array(held_out, np.float32))

    return make


@pytest.fixture
def empty_served(monkeypatch):
    """A stand-in for a `ServedScorer`, which has no signatures; its archive is written without TensorFlow."""

    def write_out(self, path, **kwargs):
        del self, kwargs
        path = types.SimpleNamespace(root=path)
        tf.io.gfile.makedirs(f"{path.root}/variables")
        tf.io.write_file(f"{path.root}/saved_model.pb", "graph")

    # ExportArchive creates an object of a class of the backend.
    monkeypatch.setattr(type(tf.keras.export.ExportArchive()), "write_out", write_out)
    return types.SimpleNamespace(signatures=dict, scorer=types.SimpleNamespace(image_size=16))
