"""The main job: from a configuration to figures, scores and a SavedModel in a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib

import numpy as np
import tensorflow as tf

from mcl_tf import evaluation
from mcl_tf.config import Config
from mcl_tf.data import folders
from mcl_tf.data.tasks import Task, build_task
from mcl_tf.detector import AnomalyDetector
from mcl_tf.errors import UsageError
from mcl_tf.scoring import self_ensemble
from mcl_tf.training.callbacks import CollapseWarning, PeriodicEvaluation, ProgressReport, TensorBoardScalars
from mcl_tf.training.distribution import is_chief, make_strategy
from mcl_tf.utils.console import say, tracked

MONITORED = 1000  # pictures, of training and test each, behind the AUROC shown during training


@dataclasses.dataclass(frozen=True)
class SplitScores:
    """What the test split got: identifiers, class names, is_anomaly bool, one_view and scores float32, all [n]."""

    identifiers: np.ndarray
    labels: np.ndarray
    is_anomaly: np.ndarray
    one_view: np.ndarray
    scores: np.ndarray

    def figures(self) -> dict[str, dict[str, float]]:
        """The figures with one view and with the self-ensemble."""
        return {
            "one_view": evaluation.figures(self.is_anomaly, self.one_view),
            "self_ensemble": evaluation.figures(self.is_anomaly, self.scores),
        }


def run(config: Config) -> dict:
    """Trains, scores the test split once and exports.

    Args:
      config: everything; an empty `run_dir` is `runs/<dataset>-<normal>`, of a folder its last part.

    Returns:
      What `metrics.json` holds; nothing on a worker that is not the chief.

    Raises:
      UsageError: bad input; the message is one line.
    """
    config = with_run_directory(config)
    strategy = make_strategy(config.run.strategy)  # several workers must find each other before anything else
    chief = is_chief(strategy)
    task = build_task(config.data, config.run.data_dir, tracked)
    directory = claim_directory(config, write=chief)
    if chief:
        describe(config, task)
    detector = AnomalyDetector(config, image_size=task.image_size)
    labels = task.train_labels if config.data.labelled else None
    detector.fit(
        task.train,
        labels,
        class_names=task.class_names,
        callbacks=lambda trainer: training_callbacks(detector, trainer, task, str(directory)) if chief else [],
    )
    if not chief:
        say("Trained; the first worker scores and writes the results.")
        return {}
    found = score_test(detector, task.test)
    report = write_results(detector, task, found, directory)
    detector.save(directory / "detector")
    saved_model = detector.export(directory / "saved_model", new_version=True, figures=report)
    say(
        f"{config.data.dataset}, normal class {'+'.join(task.class_names)}: "
        f"AUROC {report['one_view']['auroc']:.4f} with one view, "
        f"{report['self_ensemble']['auroc']:.4f} with SEI ({config.scoring.views} views); "
        f"SavedModel in {saved_model}"
    )
    return report


def with_run_directory(config: Config) -> Config:
    """The configuration with `run_dir` filled in."""
    if config.run.run_dir:
        return config
    name = config.data.dataset
    name = folders.folder_name(name) if folders.is_folder(name) else name
    return config.replace(run_dir=f"runs/{name}-{'+'.join(config.data.normal)}")


def claim_directory(config: Config, write: bool = True) -> pathlib.Path:
    """Makes the run directory and writes `config.json`, or finds a run of the same configuration there.

    Without `write` the directory is only compared, if it is there.

    Raises:
      UsageError: the directory cannot be made, or holds a run of another configuration.
    """
    directory = pathlib.Path(config.run.run_dir)
    path = directory / "config.json"
    if path.exists():
        try:
            differences = Config.from_json(path.read_text()).differences(config)
        except UsageError as error:
            raise UsageError(f"{path} cannot be read, choose another --run_dir: {error}") from None
        if differences:
            raise UsageError(
                f"{directory} holds a run with another configuration ({'; '.join(differences)}). "
                "Choose another --run_dir, or the same options to go on with it"
            )
        return directory
    if not write:
        return directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(config.to_json())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"--run_dir={directory} cannot be written: {error.strerror}") from None
    return directory


def describe(config: Config, task: Task) -> None:
    """Says what was found: pictures, classes, devices."""
    gpus = len(tf.config.list_logical_devices("GPU"))
    cores = os.cpu_count()
    say(
        f"{config.data.dataset}: {len(task.train):,} training pictures of {', '.join(task.class_names)}, "
        f"{task.image_size}x{task.image_size} pixels; "
        f"{f'{gpus} GPU' + 's' * (gpus > 1) if gpus else f'no GPU, {cores} CPU cores'}; "
        f"run directory {config.run.run_dir}"
    )
    if not gpus and config.model.encoder != "small":
        say(
            f"Without a GPU, {config.model.encoder} for {config.training.epochs} epochs takes very long: "
            "--flagfile=flags/presets/cpu.flags fits this machine."
        )


def training_callbacks(detector, trainer, task: Task, directory: str) -> list[tf.keras.callbacks.Callback]:
    """What watches a training."""
    config = detector.config
    callbacks = [
        ProgressReport(trainer.total_steps),
        TensorBoardScalars(directory, trainer.schedule, trainer.batch_size),
        CollapseWarning(trainer.epochs),
    ]
    if config.run.evaluate_every:

        def evaluate():
            averages = trainer.model.averages
            with averages.in_place() if averages else contextlib.nullcontext():
                detector.fit_gaussians(trainer.pictures[:MONITORED], trainer.labels[:MONITORED])
                return {name: part["auroc"] for name, part in score_test(detector, monitored).figures().items()}

        monitored = sample_test(task.test)
        callbacks.append(PeriodicEvaluation(directory, evaluate, config.run.evaluate_every))
    return callbacks


def sample_test(test: tf.data.Dataset) -> tf.data.Dataset:
    """About a thousand pictures, evenly spread over the test split; watched, never chosen by."""
    stride = max(1, sum(1 for _ in test.map(lambda picture, *_: 0)) // MONITORED)
    return test.shard(stride, 0)


def score_test(detector: AnomalyDetector, test: tf.data.Dataset) -> SplitScores:
    """Scores a stream (picture, is_anomaly, id, class name) in one pass over the pictures."""
    distances = detector.distances(test)
    rest = test.map(lambda picture, *others: others).batch(1024).as_numpy_iterator()
    is_anomaly, identifiers, labels = (np.concatenate(part) for part in zip(*rest, strict=True))
    method = detector.config.scoring.method
    return SplitScores(
        identifiers=np.char.decode(identifiers.astype(bytes)),
        labels=np.char.decode(labels.astype(bytes)),
        is_anomaly=is_anomaly,
        one_view=self_ensemble(distances[:, :1], method)[0].numpy(),
        scores=self_ensemble(distances, method)[0].numpy(),
    )


def write_results(detector, task: Task, found: SplitScores, directory: pathlib.Path) -> dict:
    """Writes `metrics.json`, `scores.csv` and `report.png`; gives back what the first holds."""
    flagged = found.scores > detector.threshold_
    report = {
        "dataset": detector.config.data.dataset,
        "normal": list(task.class_names),
        **found.figures(),
        "threshold": detector.threshold_,
        "at_threshold": {
            "anomalies_found": float(flagged[found.is_anomaly].mean()),
            "normals_flagged": float(flagged[~found.is_anomaly].mean()),
        },
        "pictures": {
            "train": len(task.train) - len(detector.calibration_scores_),
            "calibration": len(detector.calibration_scores_),
            "test_normal": int(np.sum(~found.is_anomaly)),
            "test_anomalous": int(np.sum(found.is_anomaly)),
        },
    }
    evaluation.write_scores(
        directory / "scores.csv", found.identifiers, found.labels, found.is_anomaly, found.scores
    )
    evaluation.plot_report(
        directory / "report.png",
        f"{report['dataset']}, normal: {', '.join(task.class_names)}",
        found.is_anomaly,
        found.one_view,
        found.scores,
        detector.threshold_,
        examples(task.test, found),
    )
    (directory / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def examples(test: tf.data.Dataset, found: SplitScores) -> dict:
    """The pictures that the report shows, read in one pass."""
    rows = evaluation.example_places(found.is_anomaly, found.scores)
    wanted = {int(place) for row in rows.values() for place in row}
    pictures = {}
    for place, (picture, *_) in enumerate(test.as_numpy_iterator()):
        if place in wanted:
            pictures[place] = picture
    return {name: [(pictures[int(p)], found.labels[p]) for p in row] for name, row in rows.items()}
