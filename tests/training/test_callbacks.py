"""Callbacks: what they report and refuse, under the Trainer and under Keras' own loop."""

import io
import math
import types

import pytest
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from mcl_tf.config import AugmentationConfig
from mcl_tf.data.batches import training_batches
from mcl_tf.errors import UsageError
from mcl_tf.summaries.event_file import EventFile
from mcl_tf.summaries.training import TrainingCurves, TrainingOverview
from mcl_tf.training import callbacks
from tests.summaries.events import attached, read_curves, read_summaries
from tests.training.training_helpers import make_task, make_trainer


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_non_finite_loss_stops_with_the_step(loss):
    callback = attached(callbacks.TerminateOnNonFiniteLoss("Try a smaller learning_rate"), step=41)
    callback.on_train_batch_end(0, {"loss": 1e30})
    with pytest.raises(UsageError, match="step 41.*checkpoint.*Try a smaller learning_rate$") as error:
        callback.on_train_batch_end(1, {"loss": loss})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_check_weights_names_the_first_non_finite_one(value):
    weights = [tf.Variable([1.0, 2.0], name="bias"), tf.Variable([[1.0], [value]], name="kernel")]
    model = types.SimpleNamespace(trainable_variables=weights, optimizer=types.SimpleNamespace(iterations=3))
    if math.isfinite(value):
        callbacks.check_weights(model, "")
    else:
        with pytest.raises(UsageError, match=r"weight kernel.* is not finite at step 3.*Try this$"):
            callbacks.check_weights(model, "Try this")


def similarities(positive, negative):
    return {"positive_similarity": positive, "negative_similarity": negative}


@pytest.mark.parametrize(
    ("positive", "negative", "collapsed"),
    [
        (0.999, 0.998, True),
        (0.3, 0.29, True),  # untrained, but no more alike
        (0.2, 0.4, True),
        (0.999, 0.97, False),  # all alike, but views of an image even more
        (0.5, 0.48, False),
        (0.9, 0.0, False),
    ],
)
def test_collapse_is_a_small_difference_of_similarities(positive, negative, collapsed, library_log):
    callback = attached(callbacks.CollapseMonitor(), step=100)
    if collapsed:
        with pytest.raises(callbacks.CollapseError, match="After 100 steps all images have nearly the same") as error:
            callback.on_epoch_end(2, similarities(positive, negative))
        assert f"{positive:.3f}, of two images {negative:.3f}" in str(error.value)
        assert "\n" not in str(error.value)
    else:
        callback.on_epoch_end(2, similarities(positive, negative))
    assert library_log.messages == []


def test_collapse_counts_after_a_hundred_steps_only(library_log):
    """A network may begin that way; a training that ends before gets a warning."""
    callback = attached(callbacks.CollapseMonitor(), epochs=4)
    for epoch, step in enumerate((10, 50, 99)):
        callback.model.optimizer.iterations = step
        callback.on_epoch_end(epoch, similarities(0.999, 0.998))
    assert library_log.messages == []
    callback.on_epoch_end(3, similarities(0.999, 0.998))
    assert [record.levelname for record in library_log.records] == ["WARNING"]
    assert "The training is too short to tell whether the network learns" in library_log.messages[0]


def test_other_models_without_similarities_do_not_collapse(library_log):
    attached(callbacks.CollapseMonitor(), step=1000).on_epoch_end(8, {"loss": 1.0})
    assert library_log.messages == []


def test_progress_forecasts_the_time_left(capsys):
    callback = attached(callbacks.ProgressReport(), step=0, epochs=6, steps=5)
    callback.on_train_begin()
    for step in range(30):
        callback.on_train_batch_end(step, {"loss": 2.5})
    callback.close()
    lines = capsys.readouterr().out.splitlines()
    assert "Training takes about" in lines[0]
    assert "24 steps" in lines[0]
    assert "step 30 of 30, loss 2.500" in lines[-1]


@pytest.mark.parametrize("method", ["on_train_end", "close"])  # the loop's, and the Trainer's after an error
def test_progress_removes_its_bar(method, monkeypatch):
    bar = Progress(console=Console(file=io.StringIO(), force_terminal=True))
    monkeypatch.setattr(callbacks, "progress", lambda description: bar)
    callback = attached(callbacks.ProgressReport(), step=0)
    callback.on_train_begin()
    assert bar.live.is_started
    getattr(callback, method)()
    assert not bar.live.is_started
    callback.close()  # a second time is not an error


# The same callbacks in two loops


class Collapse(tf.keras.callbacks.Callback):
    """Makes the projections constant, or infinite from a step on."""

    def __init__(self, infinite_from=None):
        super().__init__()
        self.infinite_from = infinite_from

    def on_train_begin(self, logs=None):
        kernel, bias = self.model.projection_head.weights[-2:]
        kernel.assign(tf.zeros_like(kernel))
        bias.assign(tf.ones_like(bias))

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.infinite_from:
            bias = self.model.projection_head.weights[-1]
            bias.assign(tf.fill(bias.shape, math.inf))


def fit(loop, own):
    """Train two epochs of five steps with the Trainer or with Keras' loop; the learning rate is 0."""
    trainer = make_trainer(epochs=2, learning_rate=0.0)
    if loop == "trainer":
        trainer.fit(own)
    else:
        batches = training_batches(trainer.images, trainer.labels, trainer.batch_size, 0)
        trainer.model.fit(
            batches, epochs=2, steps_per_epoch=trainer.steps_per_epoch, callbacks=own, verbose=0, shuffle=False
        )
    return trainer.model


@pytest.mark.parametrize("loop", ["trainer", "keras"])
def test_callbacks_work_in_both_loops(loop, tmp_path, library_log, capsys):
    """Those of TensorBoard, too."""
    file = EventFile(tmp_path)
    own = [
        Collapse(),
        callbacks.TerminateOnNonFiniteLoss(),
        callbacks.CollapseMonitor(),
        callbacks.ProgressReport(),
        TrainingOverview(file, make_task()[1][:2], AugmentationConfig(), seed=0),
        TrainingCurves(file),
    ]
    fit(loop, own)
    assert len(library_log.messages) == 1
    assert "After 10 steps all images have nearly the same projection" in library_log.messages[0]
    lines = capsys.readouterr().out.splitlines()
    assert "Training takes about" in lines[0]
    assert "4 steps" in lines[0]
    assert "step 10 of 10" in lines[-1]
    curves = read_curves(tmp_path)
    assert [step for step, _ in curves["loss/total"]] == [5, 10]
    assert curves["training/learning_rate"] == [(5, 0.0), (10, 0.0)]
    for name, value in {"negative": 1.0, "alignment": 0.0, "uniformity": 0.0}.items():
        assert [value for _, value in curves[f"similarity/{name}"]] == pytest.approx([value] * 2, abs=1e-5)
    assert ("speed/images_per_second" in curves) == (loop == "trainer")
    assert [step for step, _ in curves["speed/milliseconds_per_step"]] == [5, 10]
    assert set(read_summaries(tmp_path, "images")) == {"views/augmented"}


@pytest.mark.parametrize("loop", ["trainer", "keras"])
def test_non_finite_loss_stops_both_loops(loop):
    with pytest.raises(UsageError, match="The loss is not finite .* at step 3;"):
        fit(loop, [Collapse(infinite_from=2), callbacks.TerminateOnNonFiniteLoss()])
