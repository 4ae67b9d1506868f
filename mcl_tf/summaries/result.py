"""The result of a run for TensorBoard: metrics, options (HParams) and embeddings (projector)."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from typing import Any

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from mcl_tf.config import Config, RunConfig, ServingConfig
from mcl_tf.errors import one_line
from mcl_tf.run_record import FOLDERS
from mcl_tf.summaries.event_file import EventFile
from mcl_tf.summaries.projector import write_embeddings
from mcl_tf.summaries.scores import write_scores
from mcl_tf.training.checkpoints import newest_metadata

# Options that are always shown; those that are not at their default are, too.
_SHOWN = (
    *("dataset", "normal", "seed", "image_size", "encoder", "epochs", "batch_size", "learning_rate", "temperature"),
    *("embedding", "views", "method", "score"),
)
_UNIMPORTANT = {field.name for group in (RunConfig, ServingConfig) for field in dataclasses.fields(group)}
_logger = logging.getLogger(__name__)


def write_result(detector, test: tf.data.Dataset, test_scores, report: dict, folder: pathlib.Path) -> None:
    """Write what TensorBoard shows of a result; log a warning if that fails, because no result depends on it.

    Args:
      detector: the fitted `AnomalyDetector`.
      test: the test stream, which is read once more.
      test_scores: its `scored_test.TestScores`.
      report: the content of `metrics.json`.
      folder: where it is written to; its parent is part of the name of the run in HParams.
    """
    file, data = EventFile(folder), detector.config.data
    trial = f"{'+'.join(data.normal)}, seed {data.seed}: {folder.parent}"  # what differs comes first; two never agree
    step = trained_steps(detector.config.run.run_dir)
    try:
        write_scores(file, step, test_scores, report["at_threshold"])
        file.record(step, lambda: hparams.hparams(settings(detector.config), trial_id=trial))
        file.record(step, lambda: write_embeddings(folder, detector.scorer_, test, test_scores, detector.threshold_))
    except Exception as error:  # of other packages' code, for example
        _logger.warning("%s is incomplete: %s", folder, one_line(error))
    finally:
        file.close()


def settings(config: Config) -> dict[str, Any]:
    """Return the options for HParams: those that one always wants to see, and those that differ from the default.

    Options that change no result are left out. A value that follows from others is resolved, see `Config.in_force`.
    Whatever can be other than a number is text, because a column has one type.
    """
    given, defaults = config.flat(), Config().flat()
    values = {**config.in_force(), "view_area": config.scoring.view_areas}  # one number or several
    names = {name for name in given if name in _SHOWN or given[name] != defaults[name]} - _UNIMPORTANT
    if config.scoring.score == "image":
        names.discard("detail_size")  # which a fit sets
    return {name: _plain(values[name], defaults[name]) for name in given if name in names}


def _plain(value: Any, default: Any) -> bool | float | str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(default, str) or value is None else value


def trained_steps(run_dir: str) -> int:
    """Return the number of optimizer steps of the training in a run directory; 0 if nothing was trained."""
    for name in reversed(FOLDERS):  # the second start, if there was one
        metadata = newest_metadata(pathlib.Path(run_dir) / name)
        if metadata is not None:
            return metadata["step"]
    return 0
