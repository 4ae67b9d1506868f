"""Training that starts again with gentler settings if the embedding collapses."""

from __future__ import annotations

import logging
import pathlib

from mcl_tf.config import Config
from mcl_tf.model import MaskedContrastiveModel
from mcl_tf.run_record import FOLDERS, TrainingRecord
from mcl_tf.training import optimizers
from mcl_tf.training.callbacks import CollapseError, CollapseMonitor
from mcl_tf.training.trainer import Trainer

_GENTLER = 0.1  # factor on the learning rate of the second start
_logger = logging.getLogger(__name__)


def train(
    config: Config, images, labels, run_dir, callbacks=(), record: TrainingRecord | None = None
) -> tuple[MaskedContrastiveModel, int]:
    """Train a model; if it collapses, start again once, with gentler settings.

    Args:
      config: the configuration.
      images: uint8 [n, s, s, 3].
      labels: int32 [n].
      run_dir: where checkpoints are kept; None for no checkpoints.
      callbacks: Keras callbacks.
      record: what the training is known by in the run directory.

    Returns:
      (model, number of restarts).

    Raises:
      CollapseError: both starts collapsed.
      UsageError: training diverged, or the run directory holds another training.
      TrainingInterrupted: a signal, or the loss of another worker, stopped the training.
    """
    if record is not None:
        record.check(run_dir)
    settings = (config, gentler(config))
    first = 0
    if run_dir is not None and (pathlib.Path(run_dir) / FOLDERS[1]).exists():
        first = 1  # a resumed run does not repeat the start that collapsed
    for restarts in range(first, len(settings)):
        folder = None if run_dir is None else pathlib.Path(run_dir) / FOLDERS[restarts]
        trainer = Trainer(settings[restarts], images, labels, folder)
        if record is not None and trainer.is_chief:
            record.write(run_dir)  # not before, because options that fail here have trained nothing
        try:
            return trainer.fit([*callbacks, CollapseMonitor()]), restarts
        except CollapseError as error:
            if restarts + 1 == len(settings):
                raise
            rate = optimizers.peak_learning_rate(settings[1].training)
            _logger.warning("%s Starting again with learning_rate %g and clip_norm 1.", error, rate)
            if run_dir is not None:
                (pathlib.Path(run_dir) / FOLDERS[1]).mkdir(parents=True, exist_ok=True)
    raise AssertionError("The last start returns or raises")


def gentler(config: Config) -> Config:
    """Return settings for a second start: a tenth of the learning rate, clipped gradients and a warm-up."""
    training = config.training
    return config.replace(
        learning_rate=_GENTLER * optimizers.peak_learning_rate(training),
        clip_norm=min(training.clip_norm or 1.0, 1.0),
        warmup_epochs=max(training.warmup_epochs, 1.0),
        warmup_steps=max(training.warmup_steps, 15),
    )
