"""Keras callbacks that show and guard a training: progress, warnings. They change no result."""

from __future__ import annotations

import logging
import math
import time

import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.utils.console import duration, is_terminal, print_line, progress

COLLAPSED = 0.02  # difference between the mean cosines of positives and negatives below which an embedding is constant
_PATIENCE = 100  # steps before a collapse counts
_TIMED_STEPS = 5  # number of steps after the first, which compiles, that the forecast is based on
_logger = logging.getLogger(__name__)


def step_of(model) -> int:
    """Return the number of optimizer steps of a model; int() of the variable fails under MirroredStrategy."""
    return int(tf.convert_to_tensor(model.optimizer.iterations))


class TerminateOnNonFiniteLoss(tf.keras.callbacks.Callback):
    """Raises a `UsageError` at the first step whose loss is not a finite number.

    Args:
      advice: str, the end of the message.
    """

    def __init__(self, advice: str = "Try a smaller learning rate"):
        super().__init__()
        self.advice = advice

    def on_train_batch_end(self, batch, logs=None):
        """Check the running mean of the loss."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise non_finite_error(f"loss is not finite ({loss})", step_of(self.model), self.advice)


def check_weights(model, advice: str) -> None:
    """Check that all weights are finite, which a finite loss does not guarantee.

    In some kernels of TensorFlow, including those of oneDNN, ReLU turns NaN into 0.

    Args:
      model: the compiled Keras model.
      advice: the end of the message.

    Raises:
      UsageError: a weight is not finite.
    """
    for weight in model.trainable_variables:
        if not tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(weight))):
            name = getattr(weight, "path", weight.name)
            raise non_finite_error(f"weight {name} is not finite", step_of(model), advice)


def non_finite_error(what: str, step: int, advice: str) -> UsageError:
    """Return the error for a training that has diverged."""
    return UsageError(f"The {what} at step {step}; stopped, the last good checkpoint is kept. {advice}")


class CollapseError(RuntimeError):
    """The embedding has become constant."""


class CollapseMonitor(tf.keras.callbacks.Callback):
    """Raises a `CollapseError` at the end of an epoch if two views of an image are no more alike than any two images.

    Slow starters look the same in their first steps: on photographs of gravel, the gap between the similarities was
    0.002 after 30 steps, 0.05 after 50 and 0.41 after 100. Collapsed trainings stayed below 0.01, healthy ones had 0.11
    to 0.98. A training that is shorter than the monitor's patience only gets a warning.
    """

    def on_epoch_end(self, epoch, logs=None):
        """Compare the mean similarities of positives and negatives."""
        logs = logs or {}
        gap = float(logs.get("positive_similarity", 1.0)) - float(logs.get("negative_similarity", 0.0))
        if gap >= COLLAPSED:
            return
        step, last = step_of(self.model), epoch + 1 == self.params.get("epochs", 0)
        message = (
            f"After {step} steps all images have nearly the same projection (similarity of two views of an image "
            f"{float(logs['positive_similarity']):.3f}, of two images {float(logs['negative_similarity']):.3f})."
        )
        if step >= _PATIENCE:
            raise CollapseError(message)
        if last:
            _logger.warning("%s The training is too short to tell whether the network learns.", message)


class ProgressReport(tf.keras.callbacks.Callback):
    """Shows a bar over all steps with the loss and the time left.

    Where output is no terminal, it prints a forecast and then a line at every tenth of the training.
    """

    def __init__(self):
        super().__init__()
        self.timed, self.started = 0, 0.0

    def on_train_begin(self, logs=None):
        """Show the bar, at the step that the training resumes from."""
        self.step, self.total = step_of(self.model), self.params["epochs"] * self.params["steps"]
        self.bar = progress("Training")
        self.bar.start()
        self.task = self.bar.add_task("", total=self.total, completed=self.step, note="")

    def on_train_batch_end(self, batch, logs=None):
        """Advance the bar."""
        self.step += 1
        self.timed += 1
        left = self.total - self.step
        if self.timed == 1:
            self.started = time.perf_counter()
        elif self.timed == 1 + _TIMED_STEPS and left > 0:
            pace = (time.perf_counter() - self.started) / _TIMED_STEPS
            print_line(
                f"Training takes about {duration(pace * left)} more ({pace * 1000:.0f} ms per step, {left} steps)."
            )
        loss = float(logs["loss"])
        self.bar.update(self.task, completed=self.step, note=f"loss {loss:.3f}")
        tenth = max(self.total // 10, 1)
        if not is_terminal() and self.step % tenth == 0 and self.timed > 1 + _TIMED_STEPS:
            pace = (time.perf_counter() - self.started) / (self.timed - 1)
            print_line(f"  step {self.step} of {self.total}, loss {loss:.3f}, {duration(pace * left)} left")

    def on_train_end(self, logs=None):
        """Remove the bar."""
        self.close()

    def close(self):
        """Remove the bar, also after an error."""
        if hasattr(self, "bar"):
            self.bar.stop()
