"""Repeats the evaluation of a finished run with other options, without training."""

from __future__ import annotations

import logging
import os
import pathlib
from typing import Any

from mcl_tf import calibration, experiment, run_directory
from mcl_tf.config import EVALUATED, Config
from mcl_tf.data.room import Room
from mcl_tf.data.sources import load_source
from mcl_tf.data.tasks import build_task
from mcl_tf.detector import AnomalyDetector
from mcl_tf.errors import UsageError
from mcl_tf.run_record import CONFIG, short_name
from mcl_tf.utils.console import tracked

FOLDER = "evaluations"  # in the run directory
_logger = logging.getLogger(__name__)


def evaluate(run_dir, options: dict[str, Any], data_dir: str = "") -> dict:
    """Evaluate a finished run again: fit the Gaussians of its network, score the test split and write all results.

    Args:
      run_dir: its directory. The results lie in <run_dir>/evaluations/<options>.
      options: {name: value} of `config.EVALUATED` that differ from those of the run.
      data_dir: where TensorFlow Datasets keeps its files.

    Returns:
      The content of `metrics.json`.

    Raises:
      UsageError: an option is none of these, there is no finished run, or its images have changed.
    """
    run_dir = pathlib.Path(run_dir).expanduser()
    wrong = sorted(set(options) - set(EVALUATED))
    if wrong:
        raise UsageError(f"An evaluation can change {', '.join(EVALUATED)}. Received: {', '.join(wrong)}")
    trained = _read(run_dir)
    changed = {name: value for name, value in options.items() if trained.flat()[name] != value}
    config = trained.replace(**changed)
    directory = run_dir / FOLDER / _name(changed)
    data_dir = data_dir or config.run.data_dir
    task = build_task(config.data, data_dir, tracked, config.scoring.score, load_source, Room(config.run))
    _claim(directory, config)
    # The rate may be one that needs more held-out images, which the network was trained on.
    fitted = config.replace(pass_rate=trained.scoring.pass_rate, run_dir=str(run_dir))
    detector = AnomalyDetector(fitted, image_size=task.image_size, detail_size=task.detail_size)
    labels = task.train_labels if config.data.labelled else None
    detector.fit(task.train, labels, class_names=task.class_names)
    pass_rate = config.scoring.pass_rate
    detector.set_threshold(calibration.threshold_at(detector.calibration_scores_, pass_rate))
    detector.config = detector.config.replace(pass_rate=pass_rate)
    detector.fitted_config_ = detector.fitted_config_.replace(pass_rate=pass_rate)
    return experiment.finish(detector, task, directory)


def _read(run_dir: pathlib.Path) -> Config:
    """Return the configuration of a finished run."""
    try:
        config = Config.from_json((run_dir / CONFIG).read_text())
    except (OSError, UsageError) as error:
        raise UsageError(f"run_dir {run_dir} holds no run: {error}") from None
    if not run_directory.is_finished(run_dir, config.serving.export):
        raise UsageError(f"The run in {run_dir} has no model yet. Finish it with its own command first")
    return config


def _name(changed: dict[str, Any]) -> str:
    """Return the name of the folder of an evaluation."""
    texts = {n: ",".join(map(str, value)) if isinstance(value, tuple) else value for n, value in changed.items()}
    parts = [f"{name}={text}" for name, text in sorted(texts.items())]
    return short_name("+".join(parts).replace(os.sep, "%2F")) or "as trained"


def _claim(directory: pathlib.Path, config: Config) -> None:
    """Create the folder of an evaluation; one that is there is written again."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from None
    run_directory.try_targets(directory, config.serving.export)
    _logger.info("Results of this evaluation: %s", directory)
