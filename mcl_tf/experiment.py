"""The main job: from a configuration to metrics, scores and a SavedModel in a run directory."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import time

import numpy as np
import tensorflow as tf

from mcl_tf import evaluation, fitting, run_directory
from mcl_tf.config import Config
from mcl_tf.data import arrays, store
from mcl_tf.data.masks import find_masks
from mcl_tf.data.room import Room
from mcl_tf.data.sources import load_source
from mcl_tf.data.tasks import Task, build_task
from mcl_tf.detector import AnomalyDetector
from mcl_tf.errors import UsageError, one_line
from mcl_tf.export import formats
from mcl_tf.localization import localize
from mcl_tf.normal_images import select_held_out
from mcl_tf.report.drawing import draw_report
from mcl_tf.run_record import CONFIG, holds_run, with_run_directory
from mcl_tf.scored_test import MONITORED, TestScores, sample_test, score_test
from mcl_tf.scorer import make_scorer
from mcl_tf.summaries.event_file import EventFile
from mcl_tf.summaries.result import write_result
from mcl_tf.summaries.training import PeriodicEvaluation, Profile, TrainingCurves, TrainingOverview
from mcl_tf.tables import outliers
from mcl_tf.training.distribution import is_chief, make_strategy
from mcl_tf.utils.atomic import atomic_file
from mcl_tf.utils.console import tracked

SHOWN = 6  # number of training images whose augmented views are shown
_logger = logging.getLogger(__name__)


def run(config: Config, load=load_source) -> dict:
    """Train, score the test split once and export.

    Args:
      config: the configuration; `run_dir` is runs/<dataset>-<normal> by default, for a folder with the last part of its
        path.
      load: opens a dataset, see `mcl_tf.data.sources.load_source`.

    Returns:
      The content of `metrics.json`; an empty dictionary on a worker that is not the chief.

    Raises:
      UsageError: bad input, or a result that cannot be written; the message is one line.
      TrainingInterrupted: a signal, or the loss of another worker, stopped the training.
    """
    config = with_run_directory(config)
    holds_run(config)  # other options are refused before the data are read
    formats.check(config)
    strategy = make_strategy(config.run.strategy)  # several workers must find each other before anything else
    chief = is_chief(strategy)
    task = build_task(config.data, config.run.data_dir, tracked, config.scoring.score, load, Room(config.run))
    directory = claim_directory(config, write=chief)
    if chief:
        run_directory.try_targets(directory, config.serving.export)
        describe(config, task)
    detector = AnomalyDetector(config, image_size=task.image_size, detail_size=task.detail_size)
    labels = task.train_labels if config.data.labelled else None
    callbacks = training_callbacks(detector.config, task, directory) if chief else []
    start = time.perf_counter()
    detector.fit(task.train, labels, class_names=task.class_names, callbacks=callbacks, verbose=int(chief))
    if not chief:
        _logger.info("Trained; the first worker scores and writes the results.")
        return {}
    return finish(detector, task, directory, time.perf_counter() - start)


def finish(detector: AnomalyDetector, task: Task, directory: pathlib.Path, seconds: float | None = None) -> dict:
    """Score the test split and write all results; return the content of `metrics.json`.

    What a training has cost comes first, and a result that cannot be written does not keep the others from it.

    Args:
      detector: the fitted detector.
      task: its images.
      directory: the run directory.
      seconds: how long the fit took, for the page; None if it is not known.

    Raises:
      UsageError: names the results that could not be written.
    """
    failures: dict[str, str] = {}
    with _collected(failures, run_directory.DETECTOR):
        detector.save(directory / run_directory.DETECTOR)
    test = held_out_images(detector.config, task) if task.test is None else task.test
    try:
        test_scores = score_test(detector.scorer_, test)
    except tf.errors.OpError as error:  # a file was removed during the training, for example
        raise UsageError(f"The test images can no longer be read, see {directory}: {one_line(error)}") from None
    report = make_report(detector, task, test_scores)
    with _collected(failures, "localization"):
        masks = find_masks(detector.config.data.dataset, test_scores.names)
        report.update({"localization": localize(detector.scorer_, test, masks)} if masks else {})
    with _collected(failures, run_directory.METRICS), atomic_file(directory / run_directory.METRICS) as file:
        file.write(json.dumps(report, indent=2) + "\n")
    exported = export(detector, task, directory, report, failures)
    with _collected(failures, run_directory.SCORES):
        columns = test_scores.names, test_scores.labels, test_scores.is_anomaly, test_scores.scores
        evaluation.write_scores(directory / run_directory.SCORES, *columns)
    if "outliers" in report:
        table = outliers.make_table(report)
        with _collected(failures, "results"):
            table.write(directory)
        table.show()
    draw_report(detector, test, test_scores, report, directory, seconds)
    write_result(detector, test, test_scores, report, directory / run_directory.RESULT)
    name = f"{detector.config.data.dataset}, normal class {'+'.join(task.class_names)}"
    _logger.info("%s: %s; %s", name, _result(detector, report, test_scores), exported)
    if failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UsageError(f"Some results could not be written to {directory}. Run it again to write them. {reasons}")
    return report


def export(detector: AnomalyDetector, task: Task, directory: pathlib.Path, report: dict, failures: dict) -> str:
    """Write the model in all formats that the configuration names; return in words what lies where.

    Args:
      detector: the fitted detector.
      task: its images.
      directory: the run directory.
      report: the content of `metrics.json`.
      failures: gets the reason of every format that could not be written, by the name of its file.
    """
    config, places = detector.config, []
    for form in config.serving.export:
        name, place = run_directory.EXPORTED[form], "no place"
        measured = form == "litert" and config.serving.litert_precision == "int8"
        with _collected(failures, name):
            place = detector.export(
                directory / name,
                format=form,
                images=held_out_images(config, task) if measured else None,
                new_version=form == "saved_model",
                metrics=report,
            )
        places.append(f"{formats.NAMES[form]} in {place}")
    return ", ".join(places)


def _result(detector: AnomalyDetector, report: dict, test_scores: TestScores) -> str:
    """Return the result in words."""
    if test_scores.is_anomaly.any():
        one_view, ensemble = report["one_view"]["auroc"], evaluation.auroc_text(report["self_ensemble"])
        result = f"AUROC {one_view:.4f} with one view, {ensemble} with SEI ({detector.scorer_.view_count} views)"
        if "localization" in report:
            result += "; heat maps: pixel AUROC {pixel_auroc:.4f}, AUPRO {aupro:.4f}".format(**report["localization"])
        return result
    lowest, highest = test_scores.scores.min(), test_scores.scores.max()
    flagged = np.sum(test_scores.scores > detector.threshold_)
    return (
        f"no AUROC, because there are no anomalies for the test. {len(test_scores.scores)} normal images that were not "
        f"trained on score {lowest:.3f} to {highest:.3f}; {flagged} of them are above the threshold, "
        f"{detector.threshold_:.3f}"
    )


def held_out_images(config: Config, task: Task) -> tf.data.Dataset:
    """Return the normal images that were held out for the threshold as a test stream, see `Task`."""
    held_out = np.flatnonzero(select_held_out(task.train_labels, config))
    names = [task.train_names[i] if task.train_names else f"{config.data.dataset}/train/{i}" for i in held_out]
    class_names = np.array(task.class_names)[task.train_labels[held_out]]
    return store.as_dataset(task.train, held_out, np.zeros(len(held_out), bool), names, class_names)


@contextlib.contextmanager
def _collected(failures: dict[str, str], name: str):
    """Context manager that writes a result, and collects the error if it cannot be written."""
    try:
        yield
    except (OSError, UsageError, tf.errors.OpError) as error:
        failures[name] = one_line(error)


def claim_directory(config: Config, write: bool = True) -> pathlib.Path:
    """Create the run directory with `config.json`, or checks that it holds a run of the same configuration.

    Args:
      config: the configuration.
      write: whether to create the directory; otherwise it is only checked, if it exists.

    Returns:
      The directory.

    Raises:
      UsageError: the directory cannot be created, or holds a run of another configuration.
    """
    directory = pathlib.Path(config.run.run_dir)
    if holds_run(config) or not write:
        return directory
    run_directory.refuse_foreign(directory, config.serving.export)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_file(directory / CONFIG) as file:
            file.write(config.to_json())
    except OSError as error:
        raise UsageError(f"run_dir {directory} cannot be written: {error.strerror}") from None
    return directory


def describe(config: Config, task: Task) -> None:
    """Log the data, the devices and the run directory."""
    gpus = len(tf.config.list_logical_devices("GPU"))
    _logger.info(
        "%s: %s training images of %s, %dx%d pixels; %s; run directory %s",
        config.data.dataset,
        f"{len(task.train):,}",
        ", ".join(task.class_names),
        task.image_size,
        task.image_size,
        f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else f"no GPU, {os.cpu_count()} CPU cores",
        config.run.run_dir,
    )
    if not gpus and config.model.encoder in ("resnet18", "resnet34", "resnet50") and config.scoring.score != "local":
        _logger.info(
            "Without a GPU, %s for %d epochs takes very long; the presets cpu_quick, cpu and folder suit this machine.",
            config.model.encoder,
            config.training.epochs,
        )


def training_callbacks(config: Config, task: Task, directory) -> list[tf.keras.callbacks.Callback]:
    """Return the callbacks that watch a training.

    Args:
      config: the configuration.
      task: its images.
      directory: the run directory.
    """
    folder = directory / run_directory.CURVES
    file, shown = EventFile(folder), arrays.resize(task.train[:SHOWN], task.image_size)
    overview = TrainingOverview(file, shown, config.augmentation, config.data.seed)
    callbacks: list[tf.keras.callbacks.Callback] = [overview, TrainingCurves(file)]
    if config.run.profile_steps:
        callbacks.append(Profile(folder, *config.run.profile_steps))
    if config.run.evaluate_every and not task.has_anomalies:
        _logger.warning("evaluate_every has no effect, because there are no anomalies for the test.")
    elif config.run.evaluate_every:
        labels = task.train_labels
        trained = np.flatnonzero(~select_held_out(labels, config))[:MONITORED]
        monitored = sample_test(task.test)

        def evaluate(model):
            scorer = make_scorer(model, config.replace(score="image"), len(task.class_names))
            with model.averages.swapped_in() if model.averages else contextlib.nullcontext():
                images = arrays.resize(task.train[trained], task.image_size)
                fitting.fit_gaussians(scorer, images, labels[trained])
                fitting.fit_units(scorer, images, images)
                return score_test(scorer, monitored)

        file = EventFile(directory / run_directory.EVALUATIONS)
        callbacks.append(PeriodicEvaluation(file, evaluate, config.run.evaluate_every))
    return callbacks


def make_report(detector: AnomalyDetector, task: Task, test_scores: TestScores) -> dict:
    """Return the content of `metrics.json`."""
    flagged = test_scores.scores > detector.threshold_
    return {
        "dataset": detector.config.data.dataset,
        "normal": list(task.class_names),
        **test_scores.metrics(),
        "ensembles": test_scores.ensembles(),
        "anomalous_classes": test_scores.by_class(),
        **outliers.by_class_and_dataset(task, test_scores),
        "score": detector.fitted_config_.scoring.score,
        "restarts": detector.restarts_,
        "threshold": detector.threshold_,
        "promised_rate": detector.promised_rate_,
        "at_threshold": {
            name: float(flagged[chosen].mean())
            for name, chosen in (
                ("anomalies_found", test_scores.is_anomaly),
                ("normals_flagged", ~test_scores.is_anomaly),
            )
            if chosen.any()
        },
        "images": {
            "train": len(task.train) - len(detector.calibration_scores_),
            "calibration": len(detector.calibration_scores_),
            "test_normal": 0 if task.test is None else int(np.sum(~test_scores.is_anomaly)),
            "test_anomalous": int(np.sum(test_scores.is_anomaly)),
        },
    }
