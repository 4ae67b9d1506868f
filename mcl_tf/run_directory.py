"""The files and folders of a run directory, and whether a run can write them."""

from __future__ import annotations

import os
import pathlib

from mcl_tf import persistence
from mcl_tf.errors import UsageError
from mcl_tf.export.formats import check_target
from mcl_tf.run_record import FOLDERS
from mcl_tf.tables import files
from mcl_tf.utils import ownership
from mcl_tf.utils.atomic import try_folder

METRICS, SCORES, PICTURE, PAGE = "metrics.json", "scores.csv", "report.png", "report.html"
DETECTOR, SAVED_MODEL = persistence.RUN_FOLDER, "saved_model"
EXPORTED = {"saved_model": SAVED_MODEL, "litert": "model.tflite", "onnx": "model.onnx"}  # by format
_FILES = (METRICS, SCORES, PICTURE, PAGE, *files.FILES)
CURVES, EVALUATIONS, RESULT = "train", "evaluation", "result"  # TensorBoard's folders, see `mcl_tf.summaries`
_GROWING = (*FOLDERS, CURVES, EVALUATIONS, RESULT)  # folders to which every start adds


def refuse_foreign(directory: pathlib.Path, formats=("saved_model",)) -> None:
    """Check that a directory without a run has nothing that a run would overwrite.

    Args:
      directory: the run directory.
      formats: those of the exported model.

    Raises:
      UsageError: it has.
    """
    exported = [EXPORTED[form] for form in formats]
    names = [name for name in (*_FILES, DETECTOR, *exported, *_GROWING) if os.path.lexists(directory / name)]
    if names:
        raise UsageError(
            f"run_dir {directory} holds no run, and a run would write over what lies there. Choose another run_dir. "
            f"Received: {ownership.listed(names)}"
        )


def is_finished(directory: pathlib.Path, formats=("saved_model",)) -> bool:
    """Return whether a run has written all of its results; the picture and the page are none of them."""
    names = (METRICS, SCORES, DETECTOR, *(EXPORTED[name] for name in formats))
    return all((directory / name).exists() for name in names)


def try_targets(directory: pathlib.Path, formats=("saved_model",)) -> None:
    """Try, before a training, whether its results can be written afterwards.

    Args:
      directory: the run directory.
      formats: those of the exported model.

    Raises:
      UsageError: names what cannot be written, or the extra that a format needs.
    """
    for name in _FILES:
        if (directory / name).is_dir() or os.path.ismount(directory / name):
            raise UsageError(f"A run writes a file {directory / name}. Received: a folder or a mount point")
    for name in _GROWING:
        if (directory / name).exists() and not (directory / name).is_dir():
            raise UsageError(f"A run writes a folder {directory / name}. Received: a file")
    persistence.check_target(directory / DETECTOR)
    for form in formats:
        check_target(directory / EXPORTED[form], form)
    for folder in (directory, *(directory / name for name in _GROWING)):
        try:
            try_folder(folder)
        except OSError as error:
            raise UsageError(f"run_dir {folder} cannot be written: {error.strerror}") from None
