"""Helpers that several test modules share: processes, images, a tiny detector, failures of the file system."""

import contextlib
import ctypes
import fcntl
import functools
import io
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import types

import numpy as np
from PIL import Image

from mcl_tf.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A tiny network that trains for two steps. One class name needs quotes in a CSV file, the other is not ASCII.
DETECTOR_OPTIONS = {
    "encoder": "small",
    "width": 0.25,
    "projection_hidden": 32,
    "projection_dim": 16,
    "epochs": 0,
    "batch_size": 8,
    "seed": 3,
}
CLASS_NAMES = ("red, dark", "bläulich")
# Scores are float32 and mostly below 10. Other kernels and fusions change them by 1e-6 or so, other images by far more
# than 1e-4.
SCORE_TOLERANCE = 1e-4


# Processes


def run_python(code, *arguments):
    """Run a script in a new process that can import this project, and check that it succeeds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]


def find_free_port():
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


# Images and files


def tinted_images(count, height=16, width=16, seed=0):
    """Noise that is red (class 0) and blue (class 1) by turns: uint8 [count, height, width, 3], int [count]."""
    labels = np.arange(count) % 2
    tint = np.array([[120, 0, 0], [0, 0, 120]])[labels][:, None, None]
    noise = np.random.default_rng(seed).integers(0, 136, (count, height, width, 3))
    return (noise + tint).astype(np.uint8), labels


def mixed_images(count, height, width, seed):
    """Tinted images, every third of which is green: a class that training has not seen."""
    images = tinted_images(count, height, width, seed)[0]
    images[2::3] = images[2::3, ..., [1, 0, 1]] // 2 + np.array([0, 120, 0], np.uint8)
    return images


def unreadable_images():
    """Stand for batches of images that must not be read."""
    raise AssertionError("They are read again")
    yield


def encode(image, form="PNG", mode=None, **options):
    """Encode an image: an array uint8 [h, w], [h, w, 3] or [h, w, 4], or one of Pillow's."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def read_files(folder):
    """Return {path within the folder: bytes} of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def visible_names(folder):
    """Return the sorted names in a folder that do not begin with a dot."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def make_once(tmp_path_factory, name, fill):
    """Return a folder that one worker of pytest-xdist fills and all workers read.

    Args:
      tmp_path_factory: pytest's fixture.
      name: the name of the folder.
      fill: function that fills the folder.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, unfinished = base / name, base / f"{name}.unfinished"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            fill(unfinished)
            unfinished.rename(folder)
    return folder


# SavedModels


def call_signature(saved_model, name, values):
    """Load a SavedModel in this process and return {output: array} of one of its signatures."""
    import tensorflow as tf

    graph = os.stat(os.path.join(saved_model, "saved_model.pb"))
    signature = _load(str(saved_model), graph.st_ino, graph.st_mtime_ns).signatures[name]
    (argument,) = signature.structured_input_signature[1]
    return {key: value.numpy() for key, value in signature(**{argument: tf.constant(values)}).items()}


@functools.lru_cache(4)  # loading takes seconds
def _load(path, *state_of_its_graph):
    import tensorflow as tf

    return tf.saved_model.load(path)


# Failures of the file system


class Killed(BaseException):
    """Stands for the end of the process: no later change of the file system happens."""


class Fault:
    """What has become of the failure of `fail_at`.

    Attributes:
      reached: whether the step was reached.
      raised: whether its error left the context.
    """

    reached = False
    raised = False


_CHANGES = ("mkdir", "rename", "replace", "rmdir", "unlink", "fsync")


@contextlib.contextmanager
def fail_at(monkeypatch, step, error, exchange=True):
    """Context manager that lets one change of the file system fail and suppresses the error, or the library's about it.

    Changes are made and removed folders and files, renamings, files opened for writing, and fsync.

    Args:
      monkeypatch: pytest's fixture.
      step: the index of the change, from 0 on.
      error: the exception. After `Killed`, all later changes fail, too, so that nothing is cleaned up.
      exchange: whether the system can exchange two names.

    Yields:
      A `Fault`.
    """
    fault, counter = Fault(), itertools.count()

    def fails():
        index = next(counter)
        fault.reached = fault.reached or index == step
        return index == step or (index > step and isinstance(error, Killed))

    def failing(function, is_change=lambda *args, **kwargs: True):
        def call(*args, **kwargs):
            if is_change(*args, **kwargs) and fails():
                raise error
            return function(*args, **kwargs)

        return call

    def opens_for_writing(file, mode="r", *args, **kwargs):
        return not isinstance(file, int) and mode[0] in "wax"

    def renameat2(*args):
        if fails():
            if isinstance(error, Killed):
                raise error
            return -1
        return real_library.renameat2(*args)

    real_library = ctypes.CDLL(None)
    library = types.SimpleNamespace(renameat2=renameat2) if exchange else types.SimpleNamespace()
    with monkeypatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, failing(getattr(os, name)))
        for module in ("builtins.open", "io.open"):
            patch.setattr(module, failing(open, opens_for_writing))
        patch.setattr(ctypes, "CDLL", lambda name: library)
        try:
            yield fault
        except (type(error), UsageError) as raised:
            if raised is not error and not isinstance(raised, UsageError):
                raise
            fault.raised = True
