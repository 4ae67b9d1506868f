"""Keras callbacks that write what TensorBoard shows of a training; they work in Keras' own loop, too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mcl_tf import augmentation, views
from mcl_tf.config import AugmentationConfig
from mcl_tf.errors import one_line
from mcl_tf.summaries.event_file import DISK_ERRORS, EventFile
from mcl_tf.summaries.scores import write_scores
from mcl_tf.training.callbacks import step_of
from mcl_tf.utils import compat

_CURVES = {
    "loss": "loss/total",
    "positive_similarity": "similarity/positive",
    "negative_similarity": "similarity/negative",
    "uniformity": "similarity/uniformity",
    "without_partner": "training/share_of_anchors_without_partner",
}
_POINTS_EVERY = 100  # steps between TensorBoard points within an epoch
_logger = logging.getLogger(__name__)


class TrainingCurves(tf.keras.callbacks.Callback):
    """Writes losses, similarities, learning rate and speed by optimizer step.

    Args:
      file: the events of the training.
    """

    def __init__(self, file: EventFile):
        super().__init__()
        self.file = file
        self.compiled, self.began, self.last_step = False, 0.0, -1
        self.steps, self.seconds = 0, 0.0  # since the last point

    def on_train_batch_begin(self, batch, logs=None):
        """Start the clock, which counts the steps and not what lies between them, as evaluations and checkpoints do."""
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop the clock, and write a point every hundred steps."""
        if self.compiled:
            self.steps += 1
            self.seconds += time.perf_counter() - self.began
        self.compiled = True  # by the first step, whose time says nothing
        if (batch + 1) % _POINTS_EVERY == 0:
            self.write(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Write a point at the end of an epoch."""
        self.write(logs)

    def write(self, logs):
        """Write one point per curve; metrics are means since the beginning of the epoch."""
        step, logs = step_of(self.model), dict(logs or {})
        if step == self.last_step:
            return
        if getattr(self.model, "rotation_head", None) is None:
            logs.pop("rotation", None)  # which is constantly 0
        points = {_CURVES.get(name, f"loss/{name}"): value for name, value in logs.items()}
        if "positive_similarity" in logs:
            points["similarity/alignment"] = 2.0 - 2.0 * logs["positive_similarity"]  # of vectors of length 1
        points["training/learning_rate"] = compat.current_learning_rate(self.model.optimizer)
        if self.steps:
            points["speed/milliseconds_per_step"] = 1000.0 * self.seconds / self.steps
            if "batch_size" in self.params:  # Keras' loop does not say it
                points["speed/images_per_second"] = self.steps * self.params["batch_size"] / self.seconds
        self.file.write(step, points)
        self.last_step, self.steps, self.seconds = step, 0, 0.0

    def on_train_end(self, logs=None):
        """Close the file."""
        self.file.close()


class TrainingOverview(tf.keras.callbacks.Callback):
    """Writes the augmented views of some images and the graph of the network, when a training begins.

    Args:
      file: the events of the training.
      images: uint8 [n, s, s, 3], those that are shown.
      config: the augmentation.
      seed: its seed.
    """

    def __init__(self, file: EventFile, images, config: AugmentationConfig, seed: int):
        super().__init__()
        self.file = file
        self.images, self.config, self.seed = images, config, seed

    def on_train_begin(self, logs=None):
        """Write both, unless the training resumes."""
        if step_of(self.model) == 0:
            self.file.record(0, self.write)

    def write(self):
        """Write both to the default writer."""
        text = (
            "Every row is an image: as it is, and two views of each of its four rotations, as the loss compares them."
        )
        sheet = view_sheet(self.images, self.config, self.seed)
        tf.summary.image("views/augmented", sheet[None], description=text)
        model, side = self.model, self.images.shape[1]

        def network(images):
            return model.projection_head(model.encoder(images, training=False), training=False)

        tf.summary.graph(compat.graph(network, [None, side, side, 3], tf.float32).get_concrete_function().graph)


def view_sheet(images, config: AugmentationConfig, seed: int) -> np.ndarray:
    """Return images beside their augmented views, as the first training step would draw them.

    Args:
      images: uint8 [n, s, s, 3].
      config: the augmentation.
      seed: its seed.

    Returns:
      float32 [n (s + 1) - 1, 9 (s + 1) - 1, 3] in [0, 1]; white lines separate the views.
    """
    count, side = images.shape[:2]
    images, instances = views.to_float(images), tf.range(count * views.ROTATIONS)
    both = augmentation.augment(
        images, instances % views.ROTATIONS, seed=seed, step=0, indices=instances, total=len(instances), config=config
    )
    pairs = tf.transpose(tf.reshape(both, [2, count, views.ROTATIONS, side, side, 3]), (1, 2, 0, 3, 4, 5))
    cells = tf.concat([images[:, None], tf.reshape(pairs, [count, -1, side, side, 3])], axis=1)
    cells = tf.pad(cells, [[0, 0], [0, 0], [0, 1], [0, 1], [0, 0]], constant_values=1.0)
    rows = tf.transpose(cells, (0, 2, 1, 3, 4))
    return tf.reshape(rows, [count * (side + 1), -1, 3])[:-1, :-1].numpy()


class Profile(tf.keras.callbacks.Callback):
    """Profiles some steps for TensorBoard's profiler; if that fails, it logs a warning.

    Args:
      directory: the folder of the events of the training.
      first: the first step, counted from 1.
      last: the last step.
    """

    def __init__(self, directory, first: int, last: int):
        super().__init__()
        self.directory, self.first, self.last = str(directory), first, last
        self.running, self.done = False, False
        self.trace: tf.profiler.experimental.Trace | None = None

    def on_train_batch_begin(self, batch, logs=None):
        """Start if the next step is one of those."""
        step = step_of(self.model) + 1
        if not self.running and not self.done and self.first <= step <= self.last:
            self.running = self._try(lambda: tf.profiler.experimental.start(self.directory))
        if self.running:
            self.trace = tf.profiler.experimental.Trace("train", step_num=step, _r=1)
            self.trace.__enter__()

    def on_train_batch_end(self, batch, logs=None):
        """Stop after the last step."""
        self._leave_step()
        if self.running and step_of(self.model) >= self.last:
            self.close()

    def on_train_end(self, logs=None):
        """Stop, and say so if no step was among them."""
        self.close()
        if not self.done:
            _logger.warning(
                "No step was profiled, because this start trained none of the steps %d to %d.", self.first, self.last
            )

    def close(self):
        """Stop, also after an error."""
        self._leave_step()
        if self.running:
            self.running = False
            self._try(tf.profiler.experimental.stop)

    def _leave_step(self):
        if self.trace is not None:
            self.trace.__exit__(None, None, None)
            self.trace = None

    def _try(self, function) -> bool:
        self.done = True  # whether or not it succeeds: it is tried once
        try:
            function()
        except DISK_ERRORS as error:
            _logger.warning("%s takes no profile (%s); the run continues.", self.directory, one_line(error, 300))
            return False
        return True


class PeriodicEvaluation(tf.keras.callbacks.Callback):
    """Evaluates the model every few epochs and writes metrics, score histograms and precision-recall curves.

    Args:
      file: the events of the evaluations.
      evaluate: function model -> `scored_test.TestScores`.
      every: the number of epochs between evaluations.
    """

    def __init__(self, file: EventFile, evaluate: Callable, every: int):
        super().__init__()
        self.file = file
        self.evaluate = evaluate
        self.every = every

    def on_epoch_end(self, epoch, logs=None):
        """Evaluate if it is due."""
        if (epoch + 1) % self.every == 0:
            write_scores(self.file, step_of(self.model), self.evaluate(self.model))

    def on_train_end(self, logs=None):
        """Close the file."""
        self.file.close()
