"""The training loop: resume to the bit, Keras' own loop as reference, and what it refuses."""

import json
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.data import store
from mcl_tf.data.batches import training_batches
from mcl_tf.errors import UsageError
from mcl_tf.training.trainer import Trainer
from tests.training.training_helpers import (
    STEPS,
    InterruptAfter,
    Record,
    make_task,
    make_trainer,
    requires_loss_scaling,
    saved_steps,
    start_main,
    state_of,
    wait_until,
)


@pytest.mark.slow
def test_images_in_a_file_train_to_the_same_weights_and_resume(tmp_path):
    config, images, labels = make_task(max_steps=5, checkpoint_minutes=1e-9)
    expected, found = Record(), Record()
    in_memory = Trainer(config, images, labels)
    in_memory.fit([expected])
    stored = store.obtain_unnamed(tmp_path, [images])
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, stored, labels, tmp_path / "checkpoints").fit([found, InterruptAfter(2)])
    resumed = Trainer(config, stored, labels, tmp_path / "checkpoints")
    resumed.fit([found])
    assert len(expected.logs) == 5 + 1
    assert found.logs == expected.logs
    for a, b in zip(state_of(in_memory), state_of(resumed), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param(
            {
                "ema": 0.9,
                "warmup_epochs": 1.5,
                "clip_norm": 0.5,
                "decay_exclusions": True,
                "balanced_batches": True,
                "precision": "float16",
                "loss_block_size": 6,
            },
            marks=requires_loss_scaling,
        ),
    ],
    ids=["default", "all options"],
)
def test_resume_is_exact(options, tmp_path, library_log):
    """Weights, the state of the optimizer and the logs of every step and epoch equal those without interruption."""
    expected, found = Record(), Record()
    uninterrupted = make_trainer(**options)
    uninterrupted.fit([expected])
    # Checkpoints after every step; interruptions within the first and the third epoch.
    for steps in (2, 10):
        with pytest.raises(KeyboardInterrupt):
            make_trainer(tmp_path, **options, checkpoint_minutes=1e-9).fit([found, InterruptAfter(steps)])
    resumed = make_trainer(tmp_path, **options)
    resumed.fit([found])
    assert [message.split(",")[0] for message in library_log.messages] == [
        "Resuming after epoch 0 of 3 and 2 of 5 steps",
        "Resuming after epoch 2 of 3 and 2 of 5 steps",
    ]
    assert len(expected.logs) == 3 * (STEPS + 1)
    assert found.logs == expected.logs
    for a, b in zip(state_of(uninterrupted), state_of(resumed), strict=True):
        np.testing.assert_array_equal(b, a)


@pytest.mark.slow
def test_an_encoder_with_dropout_trains_and_resumes_exactly(tmp_path):
    layers = tf.keras.layers
    inputs = layers.Input((16, 16, 3))
    dropped = layers.Dropout(0.5)(layers.Conv2D(4, 3, 4)(inputs))
    tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(dropped)).save(tmp_path / "encoder.keras")
    options = {"encoder": str(tmp_path / "encoder.keras"), "epochs": 1}
    expected, again = make_trainer(**options), make_trainer(**options)
    expected.fit()
    again.fit()
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, **options, checkpoint_minutes=1e-9).fit([InterruptAfter(3)])
    resumed = make_trainer(tmp_path, **options)
    resumed.fit()
    for trainer in (again, resumed):
        for a, b in zip(state_of(expected), state_of(trainer), strict=True):
            np.testing.assert_array_equal(b, a)


@pytest.mark.slow
def test_two_trainings_at_once_are_those_of_each_alone():
    alone, together = ([make_trainer(seed=seed, epochs=1) for seed in (1, 2)] for _ in range(2))
    for trainer in alone:
        trainer.fit()
    threads = [threading.Thread(target=trainer.fit) for trainer in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, found in zip(alone, together, strict=True):
        for a, b in zip(state_of(expected), state_of(found), strict=True):
            np.testing.assert_array_equal(b, a)


@pytest.mark.slow
def test_resume_after_a_kill_is_exact(tmp_path):
    uninterrupted = start_main(tmp_path / "uninterrupted")
    process = start_main(tmp_path / "killed")
    assert wait_until(lambda: saved_steps(tmp_path / "killed"), process)
    time.sleep(np.random.default_rng(0).uniform(0.0, 0.6))  # anywhere within a step or a save
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    resumed = start_main(tmp_path / "killed")
    for process in (uninterrupted, resumed):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for name in ("metrics.json", "scores.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "uninterrupted" / name).read_bytes()
    newest = saved_steps(tmp_path / "uninterrupted")[-1]
    folders = [tmp_path / run / "checkpoints" / newest for run in ("uninterrupted", "killed")]
    a, b = (json.loads((folder / "metadata.json").read_text()) for folder in folders)
    assert a == b
    readers = [tf.train.load_checkpoint(str(folder / "variables")) for folder in folders]
    names = [name for name in readers[0].get_variable_to_shape_map() if not name.startswith("_")]
    assert len(names) > 30
    for name in names:
        np.testing.assert_array_equal(readers[1].get_tensor(name), readers[0].get_tensor(name), err_msg=name)
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_metrics_resume_within_an_epoch(tmp_path):
    """The running means of an epoch continue from the sums and counts in the checkpoint."""
    expected, before, after = Record(), Record(), Record()
    make_trainer(epochs=1).fit([expected])
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, epochs=1, checkpoint_minutes=1e-9).fit([before, InterruptAfter(3)])
    metadata = json.loads((tmp_path / "checkpoints" / "step-000000003" / "metadata.json").read_text())
    resumed = make_trainer(tmp_path, epochs=1)
    assert resumed.restore() == 3
    values = [float(v) for metric in resumed.model.metrics for v in metric.variables]
    assert values == metadata["metrics"]
    assert values[1::2] == [3.0] * len(resumed.model.metrics)  # the counts
    resumed.fit([after])
    assert list(after.logs) == [(0, 3), (0, 4), ("epoch", 0)]
    assert {**before.logs, **after.logs} == expected.logs
    three, five = (expected.logs[0, step]["loss"] for step in (2, 4))
    anew = (5 * five - 3 * three) / 2  # the mean of the last two steps alone
    assert abs(anew - five) > 1e-3


class Events(tf.keras.callbacks.Callback):
    """Records the calls of a training loop: (method, index, logs)."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_train_begin(self, logs=None):
        self.calls.append(("train begin", None, None))

    def on_train_end(self, logs=None):
        self.calls.append(("train end", None, None))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch begin", epoch, None))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch end", epoch, dict(logs)))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begin", batch, None))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch end", batch, dict(logs)))


def test_loop_equals_that_of_keras():
    """Trainer.fit and Keras' own fit make the same calls with the same logs, and train the same weights."""
    options = {"ema": 0.5, "balanced_batches": True}
    ours, keras = make_trainer(**options), make_trainer(**options)
    expected, found = Events(), Events()
    ours.fit([found])
    config = keras.config
    batches = training_batches(
        keras.images, keras.labels, keras.batch_size, config.data.seed, balanced=config.training.balanced_batches
    )
    history = keras.model.fit(
        batches,
        epochs=keras.epochs,
        steps_per_epoch=keras.steps_per_epoch,
        callbacks=[expected],
        verbose=0,
        shuffle=False,
    )
    if keras.model.averages is not None:
        keras.model.averages.copy_to_weights()
    assert found.calls == expected.calls
    epochs = [logs for name, _, logs in found.calls if name == "epoch end"]
    assert history.history == {name: [logs[name] for logs in epochs] for name in epochs[0]}
    for a, b in zip(state_of(keras), state_of(ours), strict=True):
        np.testing.assert_array_equal(b, a)


class StopAt(tf.keras.callbacks.Callback):
    """Asks the loop to stop, as Keras' EarlyStopping does."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 2


@pytest.mark.slow
def test_stop_training_saves_a_checkpoint(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.fit([StopAt()])
    assert trainer.step == 3
    assert trainer.store.steps() == [3]


class Close(tf.keras.callbacks.Callback):
    """Has a method `close`, which is no part of Keras' callbacks, and may fail in its first step."""

    def __init__(self, fails):
        super().__init__()
        self.fails, self.closed = fails, 0

    def on_train_batch_end(self, batch, logs=None):
        if self.fails:
            raise ValueError("a failing callback")

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("fails", [False, True])
def test_callbacks_are_closed_in_any_case(fails):
    callback, trainer = Close(fails), make_trainer(max_steps=1)
    if fails:
        with pytest.raises(ValueError, match="a failing callback"):
            trainer.fit([callback])
    else:
        trainer.fit([callback])
    assert callback.closed == 1


class Break(tf.keras.callbacks.Callback):
    """Sets a weight to NaN after some steps; in some kernels ReLU turns it into 0, and the loss stays finite."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            kernel = self.model.trainable_variables[0]
            kernel.assign(tf.fill(kernel.shape, np.nan))


@pytest.mark.parametrize("with_directory", [True, False])
def test_non_finite_weights_are_refused(with_directory, tmp_path):
    options = dict(directory=tmp_path, checkpoint_every=1) if with_directory else {}
    trainer = make_trainer(**options)
    with pytest.raises(UsageError, match=r"not finite.*smaller learning_rate \(now 0.3\)"):
        trainer.fit([Break(7)])
    if with_directory:
        assert trainer.store.steps() == [5]


def test_resume_off_refuses_a_directory_with_checkpoints(tmp_path):
    make_trainer(tmp_path, max_steps=2).fit()
    with pytest.raises(UsageError, match="resume is off, and .*step 2"):
        make_trainer(tmp_path, max_steps=2, resume=False).fit()


@pytest.mark.parametrize(
    ("max_steps", "epochs", "steps_per_epoch"), [(0, 3, 5), (100, 3, 5), (12, 2, 5), (5, 1, 5), (3, 1, 3)]
)
def test_max_steps_limits_epochs(max_steps, epochs, steps_per_epoch):
    trainer = make_trainer(max_steps=max_steps)
    assert (trainer.epochs, trainer.steps_per_epoch) == (epochs, steps_per_epoch)
    assert trainer.total_steps == epochs * steps_per_epoch
