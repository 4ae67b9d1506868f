"""What a training says of itself."""

import contextlib
import math
import resource
import types

import pytest
import tensorflow as tf

from mcl_tf.config import Config, LossConfig
from mcl_tf.errors import UsageError
from mcl_tf.training import callbacks
from mcl_tf.utils import console


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(callbacks, "say", lines.append)
    return lines


def with_model(callback, step=7, beta=2.0):
    model = types.SimpleNamespace(
        optimizer=types.SimpleNamespace(iterations=step), loss_config=LossConfig(beta=beta)
    )
    callback.set_model(model)
    return callback


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(loss):
    callback = with_model(callbacks.FiniteLoss(Config()), step=41)
    callback.on_train_batch_end(0, {"loss": 1e30})
    with pytest.raises(UsageError, match="step 41.*checkpoint.*--learning_rate") as error:
        callback.on_train_batch_end(1, {"loss": loss})
    assert "\n" not in str(error.value)


def test_a_constant_embedding_is_said_once_with_what_to_change(said):
    callback = with_model(callbacks.CollapseWarning(epochs=9), beta=2.0)
    for epoch, similarity in enumerate((0.999, 0.98, 0.995, 0.999)):
        callback.on_epoch_end(epoch, {"negative_similarity": similarity})
    assert len(said) == 1
    assert "epoch 3" in said[0]  # not the first, which a network begins with
    assert "--beta=5" in said[0]


def test_a_constant_embedding_is_not_blamed_on_a_beta_that_is_right(said):
    callback = with_model(callbacks.CollapseWarning(epochs=1), beta=5.0)
    callback.on_epoch_end(0, {"negative_similarity": 0.999})
    assert "--learning_rate" in said[0]
    assert "--beta" not in said[0]


def test_the_time_left_is_said_after_the_first_steps(said):
    callback = with_model(callbacks.ProgressReport(total_steps=30), step=0)
    callback.on_train_begin()
    for step in range(30):
        callback.on_train_batch_end(step, {"loss": 2.5})
    callback.close()
    assert "Training takes about" in said[0]
    assert "24 steps" in said[0]
    assert "step 30 of 30, loss 2.500" in said[-1]


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.2, "3 s"), (89, "89 s"), (240, "4 min"), (7800, "2 h 10 min"), (3600, "1 h 0 min")]
)
def test_duration(seconds, words):
    assert console.duration(seconds) == words


def read_scalars(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_gets_every_curve_by_step(tmp_path):
    callback = with_model(callbacks.TensorBoardScalars(tmp_path, lambda step: step / 100.0, batch_size=8))
    logs = {"loss": 3.0, "ccm": 1.0, "spa": 2.0, "positive_similarity": 0.5, "negative_similarity": 0.25}
    logs["without_partner"] = 0.125
    for epoch in range(2):
        callback.model.optimizer.iterations = 10 * (epoch + 1)
        callback.on_epoch_end(epoch, logs)
    callback.on_train_end()
    curves = read_scalars(tmp_path / "train")
    assert curves["loss/ccm"] == [(10, 1.0), (20, 1.0)]
    assert curves["partners/share_of_anchors_without"] == [(10, 0.125), (20, 0.125)]
    assert curves["similarity/negative"] == [(10, 0.25), (20, 0.25)]
    assert [value for _, value in curves["training/learning_rate"]] == pytest.approx([0.1, 0.2])
    assert curves["training/pictures_per_second"][0][1] > 0
    assert {"loss/loss", "loss/spa", "similarity/positive"} <= set(curves)


def test_evaluation_comes_every_few_epochs(tmp_path):
    figures = iter([{"one_view": 0.5}, {"one_view": 0.75}])
    callback = with_model(callbacks.PeriodicEvaluation(tmp_path, lambda: next(figures), every=2))
    for epoch in range(5):
        callback.model.optimizer.iterations = epoch
        callback.on_epoch_end(epoch)
    assert read_scalars(tmp_path / "evaluation")["evaluation/one_view"] == [(1, 0.5), (3, 0.75)]


@contextlib.contextmanager
def disk_with(folder, left):
    """Within, no file grows beyond the size of those in the folder and `left` bytes more, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max((path.stat().st_size for path in folder.glob("*")), default=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("left", [0, 1, 50, 120])  # so that a record is cut off within its length, header, data
def test_a_full_disk_is_said_once_and_curves_come_back_when_it_has_room(left, tmp_path, said):
    folder = tmp_path / "train"
    file = callbacks.CurveFile(str(folder), retry=0.0)
    with tf.summary.create_file_writer(str(tmp_path / "other")).as_default(step=5):
        file.write(1, {"loss": 1.0})
        with disk_with(folder, left):
            for step in range(2, 5):
                file.write(step, {"loss": 1.0, "more": 2.0, "even_more": 3.0})
        for step in range(7, 9):
            file.write(step, {"loss": step / 8})
        file.close()
        tf.summary.scalar("theirs", 0.5)  # the caller's own writer and step are as before
    assert len(said) == 1
    assert "takes no curves for TensorBoard" in said[0]
    assert "File too large" in said[0]
    assert "\n" not in said[0]
    assert "{{" not in said[0]
    points = []
    for number, path in enumerate(folder.glob("*")):  # each alone: names of one second tell no order
        alone = tmp_path / str(number)
        alone.mkdir()
        path.rename(alone / path.name)
        points += read_scalars(alone).get("loss", [])
    assert set(points) >= {(1, 1.0), (7, 7 / 8), (8, 1.0)}
    assert read_scalars(tmp_path / "other") == {"theirs": [(5, 0.5)]}


def test_a_training_goes_on_when_tensorboard_has_no_place(tmp_path, said):
    (tmp_path / "train").write_text("a file where the folder should be")
    callback = with_model(callbacks.TensorBoardScalars(tmp_path, lambda step: 0.1, batch_size=8))
    for epoch in range(3):
        callback.on_epoch_end(epoch, {"loss": 3.0})
    callback.on_train_end()
    assert len(said) == 1
    assert f"{tmp_path / 'train'} takes no curves" in said[0]


def test_after_a_failure_it_waits_before_the_next_attempt(tmp_path, said):
    (tmp_path / "train").write_text("a file where the folder should be")
    file = callbacks.CurveFile(str(tmp_path / "train"), retry=1e6)
    file.write(1, {"loss": 1.0})
    (tmp_path / "train").unlink()
    file.write(2, {"loss": 1.0})
    assert not (tmp_path / "train").exists()
    file.retry = 0.0
    file.write(3, {"loss": 1.0})
    assert read_scalars(tmp_path / "train") == {"loss": [(3, 1.0)]}
