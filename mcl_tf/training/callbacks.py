"""What one sees of a training: progress, TensorBoard, warnings. Keras callbacks; they change nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time

import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import UsageError, one_line
from mcl_tf.training.optimizers import peak_learning_rate
from mcl_tf.utils.console import console, duration, progress, say

COLLAPSED = 0.99  # mean cosine of different instances from which on an embedding counts as constant
_TIMED_STEPS = 5  # steps after the first, which compiles, that the forecast rests on
_CURVES = {
    "positive_similarity": "similarity/positive",
    "negative_similarity": "similarity/negative",
    "without_partner": "partners/share_of_anchors_without",
}
_SCALARS_EVERY = 100  # steps between TensorBoard points within an epoch
_FULL = (tf.errors.OpError, OSError)  # what a full or failing disk looks like


def step_of(model) -> int:
    """Optimiser steps that a model has taken; under MirroredStrategy too, where int() of the variable fails."""
    return int(tf.convert_to_tensor(model.optimizer.iterations))


@dataclasses.dataclass
class RunningMeans:
    """Means of an epoch's figures since its beginning, by name."""

    sums: dict = dataclasses.field(default_factory=dict)
    count: int = 0

    def update(self, figures: dict) -> dict:
        """Takes one step's figures in; gives the means."""
        self.count += 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in figures.items()}
        return {name: total / self.count for name, total in self.sums.items()}


class FiniteLoss(tf.keras.callbacks.Callback):
    """Stops at the first step whose loss is not a finite number."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config

    def on_train_batch_end(self, batch, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise not_finite(f"loss is not finite ({loss})", step_of(self.model), self.config)


def check_weights(model, config: Config) -> None:
    """Refuses weights that are not all finite numbers: the loss may be one even so.

    A ReLU gives 0 for not-a-number in some of TensorFlow's kernels, oneDNN's among them.
    """
    for weight in model.trainable_variables:
        if not tf.reduce_all(tf.math.is_finite(tf.convert_to_tensor(weight))):
            name = getattr(weight, "path", weight.name)
            raise not_finite(f"weight {name} is not finite", step_of(model), config)


def not_finite(what: str, step: int, config: Config) -> UsageError:
    """The error of a training that has diverged."""
    return UsageError(
        f"The {what} at step {step}; stopped, the last good checkpoint is kept. Try a smaller --learning_rate "
        f"(now {peak_learning_rate(config.training):g}) or a larger --temperature "
        f"(now {config.loss.temperature:g})"
    )


class CollapseWarning(tf.keras.callbacks.Callback):
    """Says once, in words, that the embedding has become constant; not of a first epoch that others follow."""

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self.said = False

    def on_epoch_end(self, epoch, logs=None):
        similarity = float((logs or {}).get("negative_similarity", 0.0))
        if similarity <= COLLAPSED or self.said or (epoch == 0 and self.epochs > 1):
            return
        self.said = True
        loss = self.model.loss_config
        advice = "a smaller --learning_rate or a larger --batch_size"
        if loss.beta < 1.0 / loss.temperature:
            advice = f"--beta={1.0 / loss.temperature:g} (1 / temperature; now {loss.beta:g}), or {advice}"
        say(
            f"Warning: after epoch {epoch + 1} all pictures have nearly the same projection (mean similarity of "
            f"negatives {similarity:.3f}): the network tells nothing apart. Try {advice}."
        )


class ProgressReport(tf.keras.callbacks.Callback):
    """A bar over all steps with the loss and the time left; a line every tenth where there is no terminal."""

    def __init__(self, total_steps: int):
        super().__init__()
        self.step, self.total = 0, total_steps
        self.bar = progress("Training")
        self.timed = 0
        self.started = 0.0

    def on_train_begin(self, logs=None):
        self.step = step_of(self.model)
        self.bar.start()
        self.task = self.bar.add_task("", total=self.total, completed=self.step, note="")

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self.timed += 1
        left = self.total - self.step
        if self.timed == 1:
            self.started = time.perf_counter()
        elif self.timed == 1 + _TIMED_STEPS and left > 0:
            pace = (time.perf_counter() - self.started) / _TIMED_STEPS
            say(f"Training takes about {duration(pace * left)} more ({pace * 1000:.0f} ms a step, {left} steps).")
        loss = float(logs["loss"])
        self.bar.update(self.task, completed=self.step, note=f"loss {loss:.3f}")
        tenth = max(self.total // 10, 1)
        if not console.is_terminal and self.step % tenth == 0 and self.timed > 1 + _TIMED_STEPS:
            pace = (time.perf_counter() - self.started) / (self.timed - 1)
            say(f"  step {self.step} of {self.total}, loss {loss:.3f}, {duration(pace * left)} left")

    def close(self):
        """Takes the bar off the screen; also for a training that an error ended."""
        self.bar.stop()


class CurveFile:
    """TensorBoard's events in a folder; a disk that does not take them is said once, and points are left out.

    After a failure a new file is begun, since TensorFlow drops without a word all that would come behind a record
    that was cut off; at most one a minute, each of which may stay empty.

    Args:
      folder: where the files go.
      retry: seconds after a failure before the next attempt.
    """

    def __init__(self, folder: str, retry: float = 60.0):
        self.folder, self.retry = folder, retry
        self.writer: tf.summary.SummaryWriter | None = None
        self.failed_at: float | None = None

    def write(self, step: int, points: dict) -> None:
        """One point a curve, on the disk when this returns."""
        if self.failed_at is not None and time.monotonic() - self.failed_at < self.retry:
            return
        try:
            self.writer = self.writer or tf.summary.create_file_writer(self.folder)
            with self.writer.as_default(step=step):
                try:
                    for name, value in points.items():
                        tf.summary.scalar(name, value)
                    self.writer.flush()
                except _FULL:
                    self.close()  # or leaving `with` would fail again and leave its writer the default one
                    raise
            self.failed_at = None
        except _FULL as error:
            if self.failed_at is None:
                said = one_line(error, 300)  # the file's name comes first
                say(f"Warning: {self.folder} takes no curves for TensorBoard ({said}); the run goes on without.")
            self.writer, self.failed_at = None, time.monotonic()

    def close(self) -> None:
        """Lets the file go; all that could be written is on the disk already."""
        with contextlib.suppress(*_FULL):
            if self.writer is not None:
                self.writer.close()


class TensorBoardScalars(tf.keras.callbacks.Callback):
    """Losses, similarities, learning rate and throughput under `<directory>/train`, by step."""

    def __init__(self, directory: str, schedule, batch_size: int):
        super().__init__()
        self.file = CurveFile(f"{directory}/train")
        self.schedule = schedule
        self.batch_size = batch_size
        self.last: tuple[int, float] | None = None

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % _SCALARS_EVERY == 0:
            self.write(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.write(logs)

    def write(self, logs):
        """Writes one point of every curve; an epoch's figures are means since its beginning."""
        step, now = step_of(self.model), time.perf_counter()
        points = {_CURVES.get(name, f"loss/{name}"): value for name, value in (logs or {}).items()}
        points["training/learning_rate"] = self.schedule(step)
        if self.last is not None and step > self.last[0]:
            rate = (step - self.last[0]) * self.batch_size / (now - self.last[1])
            points["training/pictures_per_second"] = rate
        self.file.write(step, points)
        self.last = (step, now)

    def on_train_end(self, logs=None):
        self.file.close()


class PeriodicEvaluation(tf.keras.callbacks.Callback):
    """Calls `evaluate() -> {name: figure}` every few epochs and writes `<directory>/evaluation`."""

    def __init__(self, directory: str, evaluate, every: int):
        super().__init__()
        self.file = CurveFile(f"{directory}/evaluation")
        self.evaluate = evaluate
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        figures = {f"evaluation/{name}": value for name, value in self.evaluate().items()}
        self.file.write(step_of(self.model), figures)
