"""What a training says of itself."""

import math
import types

import pytest
import tensorflow as tf

from mcl_tf import monitoring
from mcl_tf.config import Config, LossConfig
from mcl_tf.errors import UsageError


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(monitoring, "say", lines.append)
    return lines


def with_model(callback, step=7, beta=2.0):
    model = types.SimpleNamespace(
        optimizer=types.SimpleNamespace(iterations=step), loss_config=LossConfig(beta=beta)
    )
    callback.set_model(model)
    return callback


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_the_step(loss):
    callback = with_model(monitoring.FiniteLoss(Config()), step=41)
    callback.on_train_batch_end(0, {"loss": 1e30})
    with pytest.raises(UsageError, match="step 41.*checkpoint.*--learning_rate") as error:
        callback.on_train_batch_end(1, {"loss": loss})
    assert "\n" not in str(error.value)


def test_a_constant_embedding_is_said_once_with_what_to_change(said):
    callback = with_model(monitoring.CollapseWarning(epochs=9), beta=2.0)
    for epoch, similarity in enumerate((0.999, 0.98, 0.995, 0.999)):
        callback.on_epoch_end(epoch, {"negative_similarity": similarity})
    assert len(said) == 1
    assert "epoch 3" in said[0]  # not the first, which a network begins with
    assert "--beta=5" in said[0]


def test_a_constant_embedding_is_not_blamed_on_a_beta_that_is_right(said):
    callback = with_model(monitoring.CollapseWarning(epochs=1), beta=5.0)
    callback.on_epoch_end(0, {"negative_similarity": 0.999})
    assert "--learning_rate" in said[0]
    assert "--beta" not in said[0]


def test_the_time_left_is_said_after_the_first_steps(said):
    callback = with_model(monitoring.ProgressReport(total_steps=30), step=0)
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
    assert monitoring.duration(seconds) == words


def read_scalars(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_tensorboard_gets_every_curve_by_step(tmp_path):
    callback = with_model(monitoring.TensorBoardScalars(tmp_path, lambda step: step / 100.0, batch_size=8))
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
    callback = with_model(monitoring.PeriodicEvaluation(tmp_path, lambda: next(figures), every=2))
    for epoch in range(5):
        callback.model.optimizer.iterations = epoch
        callback.on_epoch_end(epoch)
    assert read_scalars(tmp_path / "evaluation")["evaluation/one_view"] == [(1, 0.5), (3, 0.75)]
