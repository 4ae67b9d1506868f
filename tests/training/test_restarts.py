"""A second start after a collapse: its settings, its checkpoints, and when there is one."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import TrainingInterrupted, UsageError
from mcl_tf.training import callbacks, restarts
from mcl_tf.training.callbacks import CollapseError
from mcl_tf.utils import compat
from tests.training.training_helpers import InterruptAfter, make_task, network_weights


class Monitor(tf.keras.callbacks.Callback):
    """Stands for `CollapseMonitor`: lets the first starts collapse at the end of their second epoch.

    Args:
      collapses: the number of starts that collapse.
      starts: list, to which every start adds [clip_norm, highest learning rate, number of steps].
    """

    def __init__(self, collapses, starts):
        super().__init__()
        self.collapses, self.starts = collapses, starts

    def on_train_begin(self, logs=None):
        self.starts.append([self.model.clip_norm, 0.0, 0])

    def on_train_batch_end(self, batch, logs=None):
        start = self.starts[-1]
        start[1] = max(start[1], compat.current_learning_rate(self.model.optimizer))
        start[2] += 1

    def on_epoch_end(self, epoch, logs=None):
        if len(self.starts) <= self.collapses and epoch == 1:
            raise CollapseError("All images have the same projection.")


@pytest.fixture
def collapses(monkeypatch):
    """Return a function that lets the first starts collapse; it returns the list of `Monitor`."""

    def let(count):
        starts = []
        monkeypatch.setattr(restarts, "CollapseMonitor", lambda: Monitor(count, starts))
        return starts

    return let


class FakeTrainer:
    """Stands for `Trainer`, whose training takes seconds; `outcomes` are those of the next trainings."""

    outcomes, made = [], []

    def __init__(self, config, images, labels, folder):
        self.config, self.folder = config, folder
        self.made.append(self)

    def fit(self, callbacks):
        self.callbacks = callbacks
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def fake(monkeypatch):
    """Return a function that sets the outcomes of the next trainings: models, or exceptions to raise."""
    monkeypatch.setattr(restarts, "Trainer", FakeTrainer)

    def set_outcomes(*outcomes):
        FakeTrainer.outcomes, FakeTrainer.made = list(outcomes), []
        return FakeTrainer.made

    return set_outcomes


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"learning_rate": 0.03, "clip_norm": 1.0, "warmup_epochs": 1.0, "warmup_steps": 15}),
        ({"learning_rate": 1.0, "clip_norm": 0.5}, {"learning_rate": 0.1, "clip_norm": 0.5}),
        ({"optimizer": "adamw", "clip_norm": 5.0}, {"learning_rate": 1e-4, "clip_norm": 1.0}),
        ({"warmup_epochs": 3.0, "warmup_steps": 40}, {"warmup_epochs": 3.0, "warmup_steps": 40}),
    ],
)
def test_second_start_is_gentler(options, expected):
    config = Config().replace(**options)
    found = restarts.gentler(config)
    changed = ("learning_rate", "clip_norm", "warmup_epochs", "warmup_steps")
    assert found == config.replace(**{name: found.flat()[name] for name in changed})
    for name, value in expected.items():
        assert found.flat()[name] == pytest.approx(value)


COLLAPSE = CollapseError("All images have the same projection.")


@pytest.mark.parametrize("with_directory", [True, False])
@pytest.mark.parametrize(
    ("outcomes", "expected"), [(["a model"], 0), ([COLLAPSE, "a model"], 1), ([COLLAPSE, COLLAPSE], None)]
)
def test_starts_twice_at_most(outcomes, expected, with_directory, fake, tmp_path, library_log):
    made, callback = fake(*outcomes), object()
    task = make_task(learning_rate=0.5)
    arguments = (*task, tmp_path if with_directory else None, [callback])
    if expected is None:
        with pytest.raises(CollapseError, match="same projection"):
            restarts.train(*arguments)
    else:
        assert restarts.train(*arguments) == ("a model", expected)
    settings = [task[0], restarts.gentler(task[0])][: len(outcomes)]
    assert [trainer.config for trainer in made] == settings
    folders = [tmp_path / name if with_directory else None for name in ("checkpoints", "checkpoints-restart")]
    assert [trainer.folder for trainer in made] == folders[: len(outcomes)]
    for trainer in made:
        assert trainer.callbacks[0] is callback
        assert isinstance(trainer.callbacks[1], callbacks.CollapseMonitor)
    again = "All images have the same projection. Starting again with learning_rate 0.05 and clip_norm 1."
    assert library_log.messages == [again] * (len(outcomes) - 1)


@pytest.mark.parametrize("error", [UsageError("diverged"), TrainingInterrupted("stopped", 143), KeyboardInterrupt()])
@pytest.mark.parametrize("collapsed", [False, True])
def test_other_ends_of_a_training_do_not_start_again(error, collapsed, fake, tmp_path):
    made = fake(*[COLLAPSE] * collapsed, error)
    with pytest.raises(type(error)):
        restarts.train(*make_task(), tmp_path)
    assert len(made) == 1 + collapsed
    # The same command goes on with the start that was interrupted.
    made = fake("a model")
    assert restarts.train(*make_task(), tmp_path) == ("a model", int(collapsed))
    assert [trainer.folder.name for trainer in made] == [restarts.FOLDERS[collapsed]]


def test_a_second_collapse_of_a_resumed_run_is_the_last(fake, tmp_path):
    fake(COLLAPSE, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        restarts.train(*make_task(), tmp_path)
    made = fake(COLLAPSE)
    with pytest.raises(CollapseError):
        restarts.train(*make_task(), tmp_path)
    assert len(made) == 1


# With trainings.


@pytest.mark.slow
def test_collapsed_training_starts_anew_and_resumes_exactly(collapses, tmp_path):
    """The second start equals a training with the gentler settings, also if it is interrupted."""
    task = make_task(checkpoint_every=1, learning_rate=0.5, epochs=4)
    starts = collapses(1)
    model, count = restarts.train(*task, tmp_path / "run")
    (first_clip, first_rate, first_steps), (clip, rate, steps) = starts
    assert (count, first_clip, first_steps, clip, steps) == (1, 0.0, 10, 1.0, 20)
    peak = 0.5 * 4 * 4 / 256  # for 4 images in 4 rotations
    assert first_rate == pytest.approx(peak, rel=0.02)  # after the first step, the cosine has fallen a little
    assert rate == pytest.approx(0.1 * peak, rel=1e-3)
    kept = [sorted(path.name for path in (tmp_path / "run" / name).glob("step-*")) for name in restarts.FOLDERS]
    assert kept == [["step-000000005"], ["step-000000010", "step-000000015", "step-000000020"]]

    collapses(0)
    expected, _ = restarts.train(restarts.gentler(task[0]), *task[1:], None)
    collapses(1)
    with pytest.raises(KeyboardInterrupt):
        restarts.train(*task, tmp_path / "resumed", [InterruptAfter(17)])  # the seventh step of the second start
    starts = collapses(0)
    resumed, count = restarts.train(*task, tmp_path / "resumed")
    assert (count, [steps for *_, steps in starts]) == (1, [15])  # from the checkpoint of its fifth step on
    for weights in (network_weights(model), network_weights(resumed)):
        for a, b in zip(network_weights(expected), weights, strict=True):
            np.testing.assert_array_equal(a, b)


class ConstantProjection(tf.keras.callbacks.Callback):
    """Makes the projections of all images equal when a training starts."""

    def on_train_begin(self, logs=None):
        kernel, bias = self.model.projection_head.weights[-2:]
        kernel.assign(tf.zeros_like(kernel))
        bias.assign(tf.ones_like(bias))


@pytest.mark.slow
def test_constant_projections_count_as_a_collapse(monkeypatch, library_log):
    """With the monitor of the library, whose patience is longer than this training."""
    monkeypatch.setattr(callbacks, "_PATIENCE", 5)
    # Without a learning rate, a network keeps the projections that it begins with.
    task = make_task(learning_rate=0.0, epochs=1)
    message = r"After 5 steps all images .* \(similarity of two views of an image 1.000, of two images 1.000\)"
    with pytest.raises(CollapseError, match=message):
        restarts.train(*task, None, [ConstantProjection()])
    assert len(library_log.messages) == 1
