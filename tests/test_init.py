"""Import of the package, in a fresh process: its public names, and no effect on global state."""

import os
import pathlib
import subprocess
import sys

import pytest

import mcl_tf


def run_python(code):
    """Run code in a fresh process whose environment has none of TensorFlow's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    root = pathlib.Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_import_changes_no_global_state():
    run_python("""
import logging, os, random, sys, warnings
import numpy as np

def state():
    root = logging.root.level, list(logging.root.handlers), logging.root.manager.disable
    generators = repr(np.random.get_state()), random.getstate()
    return dict(os.environ), root, list(warnings.filters), generators

before = state()
import mcl_tf
assert state() == before
logger = logging.getLogger("mcl_tf")
assert (logger.level, logger.propagate, logger.handlers) == (logging.NOTSET, True, [])
assert "tensorflow" not in sys.modules
""")


@pytest.mark.slow
def test_first_use_of_public_names_imports_their_modules_and_changes_no_global_state():
    # TensorFlow and its companions change variables and handlers themselves, so they are imported before.
    run_python("""
import logging, os, sys
import keras, sklearn.metrics, tensorflow as tf, tensorflow_datasets

def state():
    root = logging.root.level, list(logging.root.handlers), logging.root.manager.disable
    return dict(os.environ), root, logging.getLogger("tensorflow").level, tf.keras.mixed_precision.global_policy().name

before = state()
import mcl_tf

def is_imported(name):
    return f"mcl_tf.{name}" in sys.modules

assert not is_imported("export")
assert mcl_tf.export.set_threshold.__module__ == "mcl_tf.export.saved_model"
assert not is_imported("file_scoring")
assert mcl_tf.score_files.__module__ == "mcl_tf.file_scoring"
assert mcl_tf.drift.__module__ == "mcl_tf.drift_check"
assert mcl_tf.model.MaskedContrastiveModel.__module__ == "mcl_tf.model"
assert not is_imported("detector")
assert mcl_tf.AnomalyDetector.__module__ == "mcl_tf.detector"
assert mcl_tf.training.Trainer.__module__ == "mcl_tf.training.trainer"
import mcl_tf.experiment
assert state() == before
logger = logging.getLogger("mcl_tf")
assert (logger.level, logger.propagate, logger.handlers) == (logging.NOTSET, True, [])
""")


def test_public_names_are_listed():
    assert all(hasattr(mcl_tf, name) for name in mcl_tf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mcl_tf.nonsense  # noqa: B018 - raises
