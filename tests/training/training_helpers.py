"""Tiny trainings, callbacks and commands that the tests of this folder share."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.training.trainer import Trainer
from mcl_tf.utils import compat
from tests.helpers import ROOT

TINY = dict(encoder="small", width=0.25, projection_hidden=16, projection_dim=8, batch_size=4, epochs=3, labelled=True)
COUNT, STEPS = 22, 5  # images, and steps per epoch; two images are left over
requires_loss_scaling = pytest.mark.skipif(not compat.KERAS_3, reason="float16 needs the loss scaling of Keras 3")


def make_task(**options):
    """Return a configuration of 15 steps, and seeded random images of three classes with their labels."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    return Config().replace(**{**TINY, **options}), images, (np.arange(COUNT) % 3).astype(np.int32)


def make_trainer(directory=None, **options) -> Trainer:
    """Create a trainer of 15 steps, with checkpoints in a run directory if one is given."""
    return Trainer(*make_task(**options), None if directory is None else directory / "checkpoints")


def network_weights(model) -> list[tf.Variable]:
    """Return the weights of the encoder and the projection head; with Keras 2, `model.weights` also has the metrics."""
    return [*model.encoder.weights, *model.projection_head.weights]


def state_of(trainer) -> list[np.ndarray]:
    """Return the weights and the state of the optimizer."""
    model = trainer.model
    return [v.numpy() for v in (*network_weights(model), *model.rotation_head.weights, *model.optimizer.variables)]


def checkpoint_names(directory) -> list[str]:
    """Return the names of everything in the folder of checkpoints of a run directory."""
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


class Record(tf.keras.callbacks.Callback):
    """Records the logs of all steps and epochs, by (epoch, step) and ("epoch", epoch).

    Args:
      logs: the dictionary to fill; several trainings may share it.
    """

    def __init__(self, logs=None):
        super().__init__()
        self.logs = {} if logs is None else logs

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.logs[self.epoch, batch] = dict(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.logs["epoch", epoch] = dict(logs)


class InterruptAfter(tf.keras.callbacks.Callback):
    """Ends a training within the step after `steps` others, as a crash would: nothing is saved on the way out."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def start_main(run_dir, *more) -> subprocess.Popen:
    """Start main.py with a small network on the digits; it saves a checkpoint every 0.3 seconds."""
    command = [sys.executable, "main.py", "--dataset=digits", "--encoder=small", "--width=0.25"]
    command += ["--projection_hidden=16", "--batch_size=16", "--epochs=30", "--ema=0.9", "--checkpoint_minutes=0.005"]
    pipe = subprocess.PIPE
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(
        [*command, f"--run_dir={run_dir}", *more], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def saved_steps(run_dir) -> list[str]:
    """Return the names of the complete checkpoints of a run directory, oldest first."""
    return sorted(path.name for path in (run_dir / "checkpoints").glob("step-*"))


def wait_until(condition, process, seconds=240) -> bool:
    """Wait until a condition holds; return False if the process ends before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if condition():
            return True
        time.sleep(0.01)
    raise AssertionError(f"the condition does not hold after {seconds} s")
