"""Scores image files with a SavedModel alone."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mcl_tf import calibration
from mcl_tf.config import ScoringConfig
from mcl_tf.data import image_files, listing, paths
from mcl_tf.errors import UsageError, one_line, printable
from mcl_tf.export import runtimes, set_threshold, version_folders
from mcl_tf.export.model_card import read_card
from mcl_tf.export.saved_model import check_version
from mcl_tf.file_explanation import FileExplainer, is_within
from mcl_tf.score_file import SCORES, ScoreFile, model_of
from mcl_tf.utils import parallel
from mcl_tf.utils.console import progress

_logger = logging.getLogger(__name__)


def score_files(
    saved_model,
    images,
    output,
    *,
    heatmaps="",
    resume: bool = False,
    batch_size: int = ScoringConfig.scoring_batch_size,
) -> int:
    """Score image files and write one row per file, in order, as the results come.

    The row of an anomaly says in the column `place` where in the image it is, see `heat_maps.place_of`. Files that
    cannot be read are logged at the end, with the reason.

    Args:
      saved_model: a SavedModel, or the folder of its versions, whose newest one is used, or a file FILE.tflite or
        FILE.onnx of an export.
      images: a folder, read at any depth, or a glob such as "shots/**/*.png". Each file counts once, whatever links
        lead to it; the housekeeping of operating systems is left out. A folder that cannot be listed is unreadable.
      output: the file for the scores: CSV, or JSON lines if its name ends in .jsonl; `COLUMNS` are its columns.
      heatmaps: a folder for pictures of all images under their heat maps, <path within `images`>.png; none by default.
      resume: whether to keep the rows of an existing output and score the other files only. An image that has changed
        since, by its size or the time of its modification, is scored again. Rows of files that are gone stay.
      batch_size: number of images scored at a time.

    Returns:
      The number of files that were scored.

    Raises:
      UsageError: there is no model, no file or none that can be read, or the output exists and `resume` is off or it
        has scores of another model.
    """
    images, output = os.path.expanduser(images), os.path.expanduser(output)
    path = find_model(saved_model)
    prepared = size_and_resize(path)
    found = listing.find_files(images)
    files = [name for name in found.files if not (_same_file(name, output) or is_within(name, heatmaps))]
    if not files and not found.failed:
        raise UsageError(f"images must be a folder with files or a glob that matches some. Received: {images}")
    score_file = ScoreFile(output, model_of(path), resume)
    left = [name for name in files if name not in score_file.scored]
    scorer = load_scorer(path)  # before the output is created
    explainer = FileExplainer(getattr(scorer, "explain", None), heatmaps, files, resume)
    failed: list[tuple] = list(found.failed)
    with score_file, progress("Scoring") as bar:
        task = bar.add_task("", total=len(files), completed=len(files) - len(left), note="")
        for rows, failures in scored_batches(
            scorer, left, image_files.make_decoder(*prepared), batch_size, explainer.complete
        ):
            failed += failures
            score_file.write(rows)
            note = f"{len(failed)} unreadable" if failed else ""
            bar.update(task, advance=len(rows) + len(failures), note=note)
    if resume:
        score_file.sort(files)
    kept = len(files) - len(left)
    scored = len(left) + len(found.failed) - len(failed)
    _logger.info(
        "%d files were scored into %s, %d were scored before, %d are unreadable", scored, output, kept, len(failed)
    )
    for name, reason in failed:
        _logger.info("  %s %s", printable(name), reason)
    if not scored and not kept:
        raise UsageError(f"None of the {len(failed)} files of {images} is an image that can be read")
    return scored


def choose_threshold(
    saved_model, images, normal, target: str = "f1", *, batch_size: int = ScoringConfig.scoring_batch_size
) -> str:
    """Write a new version of a SavedModel with the threshold that suits labelled examples best.

    Args:
      saved_model: a version, or the folder of versions, whose newest one is used.
      images: a folder with one sub-folder of images per class.
      normal: names of the sub-folders with normal images; all others hold anomalies.
      target: "f1", "youden" or e.g. "fpr=0.01", see `calibration.threshold_for`.
      batch_size: number of images scored at a time.

    Returns:
      The absolute path of the new version.

    Raises:
      UsageError: there is no model, a class is missing, an example cannot be read, or no version can be written.
    """
    images = os.path.expanduser(images)
    path = version_folders.find(saved_model)
    check_version(path)  # before the examples are scored
    classes = _list_classes(images)
    missing = [name for name in normal if name not in classes]
    if not classes or missing:
        raise UsageError(
            f"images must be a folder with a sub-folder per class, {', '.join(normal)} among them. "
            f"Received: {images} with {', '.join(classes) or 'no sub-folders'}"
        )
    found = {name: listing.find_files(os.path.join(images, name)) for name in classes}
    names = [file for name in classes for file in found[name].files]
    is_anomaly = np.array([name not in normal for name in classes for _ in found[name].files])
    calibration.threshold_for(is_anomaly, is_anomaly, target)  # a wrong target is refused before all images are scored
    decode = image_files.make_decoder(*size_and_resize(path))
    batches = list(scored_batches(load_scorer(path), names, decode, batch_size))
    failed = [failure for name in classes for failure in found[name].failed]
    failed += [failure for _, failures in batches for failure in failures]
    if failed:
        raise UsageError(f"{printable(failed[0][0])} {failed[0][1]} ({len(failed)} such files)")
    scores = np.array([row["score"] for rows, _ in batches for row in rows])
    value = calibration.threshold_for(scores, is_anomaly, target)
    flagged = scores > value
    examples = f"{np.sum(~is_anomaly)} normal images and {np.sum(is_anomaly)} anomalies"
    version = set_threshold(path, value=value, set_by=f"the best {target} on {examples}")
    _logger.info(
        "Threshold %.6g: finds %.1f %% of the anomalies and flags %.1f %% of the normal images (%s); %s",
        value,
        100.0 * flagged[is_anomaly].mean(),
        100.0 * flagged[~is_anomaly].mean(),
        examples,
        version,
    )
    return version


def _list_classes(images) -> list[str]:
    """Return the sub-folders of a folder of examples, one per class."""
    try:
        return listing.find_folders(images) if os.path.isdir(images) else []
    except OSError as error:
        raise UsageError(f"{images} cannot be listed: {error.strerror or error}") from None


def find_model(path) -> pathlib.Path:
    """Return the path of a file for another device, or of a SavedModel, see `version_folders.find`."""
    file = pathlib.Path(path).expanduser().resolve()
    return file if runtimes.is_device_model(file) else version_folders.find(path)


def load_scorer(path):
    """Load the signature `serving_default` of a SavedModel, with `explain` as an attribute, or the function of a file.

    Args:
      path: the folder of the SavedModel, or the file.

    Raises:
      UsageError: it cannot be loaded or has no such signature.
    """
    if runtimes.is_device_model(path):
        return runtimes.load(path)
    try:
        model = tf.saved_model.load(str(path))
        scorer = model.signatures["serving_default"]
        scorer.explain = model.signatures["explain"]
    except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise UsageError(f"{path} cannot be loaded as a SavedModel of this library: {one_line(error)}") from None
    scorer.model = model  # a signature does not keep its variables alive
    return scorer


def score_batch(scorer, images) -> dict[str, np.ndarray]:
    """Score images uint8 [n, s, s, 3] and return {output: array [n]}.

    Raises:
      UsageError: the model fails.
    """
    try:
        return {name: value.numpy() for name, value in scorer(images=tf.constant(images)).items()}
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(f"The model cannot score: {one_line(error, 300)}") from None


def make_rows(names, outputs) -> Iterator[dict]:
    """Yield one row per file: a dictionary from `SCORES` to plain values.

    Args:
      names: strings [n].
      outputs: the result of `score_batch`.

    Yields:
      The rows.
    """
    columns = (outputs[name].tolist() for name in SCORES[1:])
    for name, score, is_anomaly, p_value, nearest_class, class_name in zip(names, *columns, strict=True):
        values = (str(name), score, is_anomaly, p_value, nearest_class, class_name.decode())
        yield dict(zip(SCORES, values, strict=True))


def size_and_resize(path) -> tuple[int, str]:
    """Return the arguments of `image_files.make_decoder` for a SavedModel or a file for another device.

    Raises:
      UsageError: it has no model card.
    """
    card = (runtimes.read_card if path.is_file() else read_card)(path)
    return card["image_size"], card["resize"]


def scored_batches(scorer, names, decode, batch_size: int, complete=None) -> Iterator[tuple]:
    """Score files batch by batch, in order.

    Args:
      scorer: the result of `load_scorer`.
      names: the files.
      decode: the result of `image_files.make_decoder`.
      batch_size: number of images scored at a time.
      complete: function (row, contents of the file) that adds to the row of an image; None if nothing is added.

    Yields:
      (rows of the files that were scored, [(name, reason)] of the others).
    """

    def read_and_score(batch):
        states = dict(zip(batch, map(paths.file_state, batch), strict=True))  # before the files are read
        contents, failures = zip(*map(image_files.read_bytes, batch), strict=True)
        images, reasons = decode(contents)
        reasons = np.array([failure or reason for failure, reason in zip(failures, reasons, strict=True)], object)
        batch, good = np.array(batch, object), reasons == ""
        rows = list(make_rows(batch[good], score_batch(scorer, images[good]))) if good.any() else []
        rows = [{**row, "image_state": states[row["file"]]} for row in rows]
        for row, index in zip(rows, np.flatnonzero(good), strict=True):
            if complete:
                complete(row, contents[index])
        return rows, list(zip(batch[~good], reasons[~good], strict=True))

    count = parallel.per_thread(batch_size)
    return parallel.map_in_order(read_and_score, (names[i : i + count] for i in range(0, len(names), count)))


def _same_file(name, output):
    return os.path.exists(output) and os.path.realpath(name) == os.path.realpath(output)
