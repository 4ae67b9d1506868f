"""Interruptions from outside: signals, and the loss of another worker."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time

import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.errors import TrainingInterrupted
from mcl_tf.training.distribution import START_TIMEOUT, workers

LOST = 3  # exit code after the loss of another worker
_LOSS_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)
_ADVICE = "The same command on every machine resumes from the newest checkpoint"
_logger = logging.getLogger(__name__)


class PreemptionSignals:
    """Context manager that records the first SIGTERM or Ctrl-C in `received`; a second one has its usual effect.

    Only the main thread can catch signals. In other threads nothing is recorded.
    """

    def __init__(self):
        self.received: int | None = None
        self._previous = {}

    def __enter__(self) -> PreemptionSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._record)
        return self

    def _record(self, number, frame):
        del frame
        self.received = number
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def __exit__(self, *_):
        self._restore()


@contextlib.contextmanager
def lost_workers(strategy: tf.distribute.Strategy, run: RunConfig):
    """Context manager that ends this worker in bounded time after the loss of another one.

    TensorFlow reports most losses as errors. Where it keeps waiting, a thread ends the process after `worker_timeout`
    seconds without a step (the first step may take some minutes longer), because a collective operation cannot be left
    otherwise.

    Args:
      strategy: the distribution strategy.
      run: its `worker_timeout`.

    Yields:
      A function to call after every step.

    Raises:
      TrainingInterrupted: another worker is lost.
    """
    if workers(strategy) == 1:
        yield lambda: None
        return
    last, over = [time.monotonic() + START_TIMEOUT], threading.Event()  # the first step is traced first

    def watch():
        while not over.wait(1.0):
            if time.monotonic() - last[0] > run.worker_timeout:
                _logger.error("No step for %d s: another worker hangs or is lost. %s", run.worker_timeout, _ADVICE)
                logging.shutdown()
                os._exit(LOST)

    def report_step():
        last[0] = time.monotonic()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield report_step
    except _LOSS_ERRORS as error:
        raise TrainingInterrupted(f"Another worker was lost ({type(error).__name__}). {_ADVICE}", LOST) from None
    finally:
        over.set()
