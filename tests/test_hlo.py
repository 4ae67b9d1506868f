"""The training step as StableHLO, run by JAX without TensorFlow, beside the trainer itself."""

import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import hlo
from mcl_tf import Config
from mcl_tf.data.tasks import Task
from mcl_tf.errors import UsageError
from mcl_tf.training.trainer import Trainer
from tests.helpers import DETECTOR_OPTIONS, ROOT, tinted_images

# Both sides round differently. A ReLU whose input is within that of 0 falls either way and moves single weights by
# 1e-3, and all weights together by less than a tenth of this.
TOLERANCE = 1e-4
ALONE = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["mcl_tf"] = None  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class LastStep(tf.keras.callbacks.Callback):
    """Keeps the metrics of the last step alone."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.reset_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.metrics = logs


@pytest.mark.slow
def test_ten_steps_in_jax_are_those_of_tensorflow(tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed: pip install 'mcl_tf[hlo]'")
    pytest.importorskip("tensorflow.compiler.mlir.stablehlo", reason="this TensorFlow does not write StableHLO")
    config, folder = Config().replace(**{**DETECTOR_OPTIONS, "epochs": 5}), tmp_path / "training"
    hlo.write(folder, config, Task(("both",), 16, 16, tinted_images(40)[0], np.zeros(40, np.int32), None))
    result = run_alone(folder)

    with np.load(folder / hlo.DATA) as data, np.load(folder / hlo.TRAINED) as trained:
        images, labels, state = data["images"], data["labels"], dict(trained)
    trainer, last = Trainer(config, images, labels), LastStep()
    trainer.fit([last])
    assert result["done"] == trainer.step == 10
    assert result["metrics"] == pytest.approx(last.metrics, rel=TOLERANCE, abs=1e-6)
    expected = {name: variable.numpy() for name, variable in hlo.variables(trainer.model).items()}
    assert state.keys() == expected.keys()
    for part in ("encoder", "projection_head", "rotation_head", "optimizer"):
        found, wanted = (
            np.concatenate([values[name].ravel() for name in expected if name.startswith(part)])
            for values in (state, expected)
        )
        assert np.linalg.norm(found - wanted) < TOLERANCE * np.linalg.norm(wanted), part

    # The way back: a training takes the variables in place of its own steps.
    other = Trainer(config, images, labels)
    other.fit([hlo.Trained(state)])
    for name, variable in hlo.variables(other.model).items():
        np.testing.assert_array_equal(variable.numpy(), state[name])


def run_alone(folder):
    """Train with JAX in a process that can import neither TensorFlow nor this library, and return its result."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, "-c", ALONE, str(ROOT / "benchmarks" / "run_hlo.py"), str(folder), "--train"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def test_an_existing_folder_is_not_replaced(tmp_path):
    with pytest.raises(UsageError, match="must not exist. Received: "):
        hlo.write(tmp_path, Config(), None)
