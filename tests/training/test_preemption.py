"""Interruptions: signals save and end with a hint, the loss of a worker ends the others in bounded time."""

import json
import os
import signal
import threading
import time
import types

import pytest
import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.errors import TrainingInterrupted
from mcl_tf.model import METRICS
from mcl_tf.training import preemption
from mcl_tf.training.distribution import START_TIMEOUT
from mcl_tf.training.preemption import PreemptionSignals, lost_workers
from tests.training.training_helpers import checkpoint_names, make_trainer, saved_steps, start_main, wait_until

# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_recorded_and_the_second_has_its_usual_effect(number):
    usual = []
    before = signal.signal(number, lambda *_: usual.append(number))
    try:
        with PreemptionSignals() as signals:
            assert signals.received is None
            os.kill(os.getpid(), number)
            assert (signals.received, usual) == (number, [])
            os.kill(os.getpid(), number)
            assert usual == [number]
        os.kill(os.getpid(), number)  # after the training, too
        assert usual == [number, number]
    finally:
        signal.signal(number, before)


def test_other_threads_leave_signals_alone():
    before, inside = signal.getsignal(signal.SIGTERM), []

    def train():
        with PreemptionSignals() as signals:
            inside.append((signal.getsignal(signal.SIGTERM), signals.received))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert inside == [(before, None)]


class Signal(tf.keras.callbacks.Callback):
    """Sends the process a signal in the second step."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_within_a_training_saves_a_checkpoint(number, tmp_path):
    before = signal.getsignal(number)
    with pytest.raises(
        TrainingInterrupted, match="after step 2 of 15. The same command resumes from .*step-000000002$"
    ) as error:
        make_trainer(tmp_path).fit([Signal(number)])
    assert error.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert checkpoint_names(tmp_path) == ["step-000000002"]
    metadata = json.loads((tmp_path / "checkpoints" / "step-000000002" / "metadata.json").read_text())
    assert metadata["metrics"][1::2] == [2.0] * len(METRICS)  # the counts of the running means


def test_signal_without_a_directory_says_that_nothing_was_saved():
    with pytest.raises(TrainingInterrupted, match="after step 2 of 15; without a run_dir, nothing was saved"):
        make_trainer().fit([Signal(signal.SIGINT)])


@pytest.mark.slow
def test_signal_to_the_process_saves_and_says_how_to_resume(tmp_path):
    number = signal.SIGTERM
    process = start_main(tmp_path, "--epochs=1000", "--checkpoint_minutes=0", "--checkpoint_every=5")
    assert wait_until(lambda: saved_steps(tmp_path), process)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    last = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert "The same command resumes from" in last
    step = int(last.split("after step ")[1].split()[0])
    assert saved_steps(tmp_path)[-1] == f"step-{step:09d}"
    assert last.endswith(f"step-{step:09d}")


# Lost workers


@pytest.fixture
def two_workers(monkeypatch):
    monkeypatch.setattr(preemption, "workers", lambda strategy: 2)


@pytest.mark.parametrize(
    "error", [tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError, tf.errors.UnknownError]
)
def test_errors_of_communication_are_the_loss_of_a_worker(error, two_workers):
    with (
        pytest.raises(TrainingInterrupted, match=f"lost .{error.__name__}.*every machine resumes from") as caught,
        lost_workers(tf.distribute.get_strategy(), RunConfig()),
    ):
        raise error(None, None, "connection reset")
    assert caught.value.code == 3


@pytest.mark.parametrize("error", [tf.errors.InvalidArgumentError, ValueError])
def test_other_errors_are_not_the_loss_of_a_worker(error, two_workers):
    arguments = (None, None, "wrong") if issubclass(error, tf.errors.OpError) else ("wrong",)
    with pytest.raises(error, match="wrong"), lost_workers(tf.distribute.get_strategy(), RunConfig()):
        raise error(*arguments)


def test_errors_of_a_single_process_stay_as_they_are():
    with pytest.raises(tf.errors.InternalError), lost_workers(tf.distribute.get_strategy(), RunConfig()):
        raise tf.errors.InternalError(None, None, "connection reset")


def test_process_ends_after_the_timeout_without_a_step(two_workers, monkeypatch, library_log):
    """The first step may take START_TIMEOUT longer, every other one `worker_timeout`."""
    now, ended = 1000.0, threading.Event()
    codes = []

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(preemption, "time", types.SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(preemption, "os", types.SimpleNamespace(_exit=end))
    monkeypatch.setattr(preemption, "logging", types.SimpleNamespace(shutdown=lambda: None))
    with lost_workers(tf.distribute.get_strategy(), RunConfig(worker_timeout=10)) as report_step:
        now += START_TIMEOUT + 9.0
        assert not ended.wait(1.5)
        report_step()
        now += 9.0
        assert not ended.wait(1.5)
        now += 2.0
        assert ended.wait(30.0)
    assert codes[0] == 3
    assert library_log.records[0].levelname == "ERROR"
    assert "No step for 10 s: another worker hangs or is lost." in library_log.messages[0]
    assert "every machine resumes from the newest checkpoint" in library_log.messages[0]
