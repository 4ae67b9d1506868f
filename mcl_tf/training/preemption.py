"""What can stop a training from outside: signals, and the loss of another worker."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.errors import Stopped
from mcl_tf.training.distribution import START_TIMEOUT, workers

LOST = 3  # exit code of a worker that others have left
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)


class StopSignals:
    """Within, the first SIGTERM or Ctrl-C is noted in `received`; a second one has its usual effect.

    Outside of the main thread, which alone may catch signals, nothing is noted.
    """

    def __init__(self):
        self.received: int | None = None
        self._before = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        del frame
        self.received = number
        self._give_back()

    def _give_back(self):
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def __exit__(self, *_):
        self._give_back()


@contextlib.contextmanager
def lost_workers(strategy: tf.distribute.Strategy, run: RunConfig):
    """Within, the end of another worker stops this one in bounded time; gives a function to call after a step.

    TensorFlow reports most losses as errors. Where it waits on, a thread ends the process after
    `worker_timeout` seconds without a step (and some minutes for the first), since a collective
    operation cannot be left otherwise.

    Raises:
      Stopped: another worker is gone.
    """
    if workers(strategy) == 1:
        yield lambda: None
        return
    advice = "The same command on every machine goes on from the newest checkpoint"
    last, over = [time.monotonic() + START_TIMEOUT], threading.Event()  # the first step is traced first

    def watch():
        while not over.wait(1.0):
            if time.monotonic() - last[0] > run.worker_timeout:
                print(
                    f"No step for {run.worker_timeout} s: another worker hangs or is lost. {advice}",
                    file=sys.stderr,
                )
                sys.stderr.flush()
                os._exit(LOST)

    def alive():
        last[0] = time.monotonic()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield alive
    except _LOST as error:
        raise Stopped(f"Another worker was lost ({type(error).__name__}). {advice}", LOST) from None
    finally:
        over.set()
