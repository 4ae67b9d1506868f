"""Callbacks: what they report, write and refuse, under the Trainer and under Keras' own loop."""

import contextlib
import io
import math
import resource
import types

import pytest
import tensorflow as tf
from rich.console import Console
from rich.progress import Progress

from mcl_tf.data.batches import training_batches
from mcl_tf.errors import UsageError
from mcl_tf.training import callbacks
from tests.training.training_helpers import make_trainer


def attached(callback, step=7, learning_rate=0.1, **params):
    """Return the callback with a model at a step and with the parameters of a training loop."""
    optimizer = types.SimpleNamespace(iterations=step, learning_rate=learning_rate)
    callback.set_model(types.SimpleNamespace(optimizer=optimizer))
    callback.set_params({"epochs": 9, "steps": 5, **params})
    return callback


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


def read_curves(directory):
    """Return {curve: [(step, value)]} of a folder of TensorBoard's events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_gets_every_curve_by_step(tmp_path):
    callback = attached(callbacks.TensorBoardScalars(tmp_path), batch_size=8)
    logs = {"loss": 3.0, "ccm": 1.0, "spa": 2.0, "positive_similarity": 0.5, "negative_similarity": 0.25}
    logs["without_partner"] = 0.125
    for epoch in range(2):
        callback.model.optimizer.iterations = 10 * (epoch + 1)
        callback.model.optimizer.learning_rate = 0.1 * (epoch + 1)
        callback.on_epoch_end(epoch, logs)
    callback.on_train_end()
    curves = read_curves(tmp_path / "train")
    assert curves["loss/ccm"] == [(10, 1.0), (20, 1.0)]
    assert curves["partners/share_of_anchors_without"] == [(10, 0.125), (20, 0.125)]
    assert curves["similarity/negative"] == [(10, 0.25), (20, 0.25)]
    assert [value for _, value in curves["training/learning_rate"]] == pytest.approx([0.1, 0.2])
    assert curves["training/images_per_second"][0][1] > 0
    assert {"loss/loss", "loss/spa", "similarity/positive"} <= set(curves)


def test_tensorboard_gets_points_within_an_epoch(tmp_path):
    callback = attached(callbacks.TensorBoardScalars(tmp_path))
    for batch in range(250):
        callback.model.optimizer.iterations = batch + 1
        callback.on_train_batch_end(batch, {"loss": 3.0})
    callback.on_train_end()
    curves = read_curves(tmp_path / "train")
    assert curves["loss/loss"] == [(100, 3.0), (200, 3.0)]
    assert "training/images_per_second" not in curves  # Keras' loop does not say the batch size


def test_evaluation_comes_every_few_epochs(tmp_path):
    metrics = iter([{"one_view": 0.5}, {"one_view": 0.75}])
    models = []

    def evaluate(model):
        models.append(model)
        return next(metrics)

    callback = attached(callbacks.PeriodicEvaluation(tmp_path, evaluate, every=2))
    for epoch in range(5):
        callback.model.optimizer.iterations = epoch
        callback.on_epoch_end(epoch)
    assert read_curves(tmp_path / "evaluation")["evaluation/one_view"] == [(1, 0.5), (3, 0.75)]
    assert models == [callback.model] * 2


@contextlib.contextmanager
def limited_file_size(folder, left):
    """Let no file grow beyond the largest one of a folder and `left` bytes more, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max((path.stat().st_size for path in folder.glob("*")), default=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("left", [0, 1, 50, 120])  # a record is cut off within its length, header or data
def test_full_disk_ends_the_curves_with_one_warning(left, tmp_path, library_log):
    folder = tmp_path / "train"
    file = callbacks.CurveFile(str(folder))
    with tf.summary.create_file_writer(str(tmp_path / "other")).as_default(step=5):
        file.write(1, {"loss": 1.0})
        with limited_file_size(folder, left):
            for step in range(2, 5):
                file.write(step, {"loss": 1.0, "more": 2.0, "even_more": 3.0})
        file.write(7, {"loss": 1.0})  # there is space again, but the file is given up
        file.close()
        tf.summary.scalar("theirs", 0.5)  # the caller's own writer and step are as before
    assert [record.levelname for record in library_log.records] == ["WARNING"]
    assert "takes no curves for TensorBoard" in library_log.messages[0]
    assert "File too large" in library_log.messages[0]
    assert "\n" not in library_log.messages[0]
    assert "{{" not in library_log.messages[0]
    assert len(list(folder.iterdir())) == 1
    points = read_curves(folder)["loss"]
    assert points[0] == (1, 1.0)
    assert all(step < 5 for step, _ in points)
    assert read_curves(tmp_path / "other") == {"theirs": [(5, 0.5)]}


def test_training_continues_without_a_folder_for_tensorboard(tmp_path, library_log):
    (tmp_path / "train").write_text("a file in place of the folder")
    callback = attached(callbacks.TensorBoardScalars(tmp_path), batch_size=8)
    for epoch in range(3):
        callback.on_epoch_end(epoch, {"loss": 3.0})
    callback.on_train_end()
    assert len(library_log.messages) == 1
    assert f"{tmp_path / 'train'} takes no curves" in library_log.messages[0]


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
    evaluated = []

    def evaluate(model):
        evaluated.append(model)
        return {"auroc": 0.75}

    own = [
        Collapse(),
        callbacks.TerminateOnNonFiniteLoss(),
        callbacks.CollapseMonitor(),
        callbacks.ProgressReport(),
        callbacks.TensorBoardScalars(tmp_path),
        callbacks.PeriodicEvaluation(tmp_path, evaluate, every=2),
    ]
    model = fit(loop, own)
    assert len(library_log.messages) == 1
    assert "After 10 steps all images have nearly the same projection" in library_log.messages[0]
    lines = capsys.readouterr().out.splitlines()
    assert "Training takes about" in lines[0]
    assert "4 steps" in lines[0]
    assert "step 10 of 10" in lines[-1]
    curves = read_curves(tmp_path / "train")
    assert [step for step, _ in curves["loss/loss"]] == [5, 10]
    assert curves["training/learning_rate"] == [(5, 0.0), (10, 0.0)]
    assert [value for _, value in curves["similarity/negative"]] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert ("training/images_per_second" in curves) == (loop == "trainer")
    assert read_curves(tmp_path / "evaluation") == {"evaluation/auroc": [(10, 0.75)]}
    assert evaluated == [model]


@pytest.mark.parametrize("loop", ["trainer", "keras"])
def test_non_finite_loss_stops_both_loops(loop):
    with pytest.raises(UsageError, match="The loss is not finite .* at step 3;"):
        fit(loop, [Collapse(infinite_from=2), callbacks.TerminateOnNonFiniteLoss()])
