"""Detectors in folders: configuration as JSON, weights as NumPy arrays, an encoder from elsewhere as a Keras file."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from mcl_tf.config import ENCODERS, Config
from mcl_tf.errors import UsageError, one_line
from mcl_tf.scorer import make_scorer
from mcl_tf.texture import TextureDescriptor
from mcl_tf.training.trainer import build_model
from mcl_tf.utils import ownership
from mcl_tf.utils.atomic import ABANDONED, atomic_folder, recovered, remove_temporary, try_folder

CONFIG, WEIGHTS, ENCODER = "config.json", "weights.npz", "encoder.keras"
RUN_FOLDER = "detector"  # where a run directory has its detector
LEARNED = ("class_names_", "fitted_config_", "restarts_", "calibration_scores_", "scorer_")
_KEYS = {"config", "image_size", "class_names", "calibration_scores"}  # of every configuration that `save` writes
_EVIDENCE = "classes by likelihood, or rotations"  # of several classes, of one; once, of rotations alone
_STATE = "_saved"  # what a pickle holds instead of what was learned


def save(detector, path) -> None:
    """Save a fitted `AnomalyDetector`, see its method `save`."""
    path = pathlib.Path(path).expanduser().resolve()
    try:
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary(path.parent, glob.escape(path.name), ABANDONED)
        with atomic_folder(path) as folder:
            np.savez(folder / WEIGHTS, **detector.scorer_.state())
            if _has_own_file(detector):
                detector.scorer_.encoder.save(folder / ENCODER)
            contents = {**_describe(detector), "files": ownership.contents(folder)}
            (folder / CONFIG).write_text(json.dumps(contents, indent=2) + "\n")
            _check_replaceable(path)  # again, because writing takes a while
    except OSError as error:
        raise UsageError(f"The detector cannot be saved in {path}: {error}") from None


def check_target(path) -> None:
    """Check that a detector can be saved to a folder, which need not exist.

    Raises:
      UsageError: it holds other files, or cannot be written.
    """
    path = pathlib.Path(path).resolve()
    try:
        _check_replaceable(path)
        try_folder(path.parent)
    except OSError as error:
        raise UsageError(f"The detector cannot be saved in {path}: {error}") from None


def load(kind: type, path):
    """Load a detector, see `AnomalyDetector.load`.

    Args:
      kind: `AnomalyDetector` or a subclass.
      path: the folder, or a run directory, which has the detector in a folder of its own.
    """
    path = recovered(pathlib.Path(path).expanduser())
    if not (path / WEIGHTS).exists() and recovered(path / RUN_FOLDER).is_dir():
        path = recovered(path / RUN_FOLDER)
    try:
        contents = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise _no_detector(path, error) from None

    def read_weights():
        with np.load(path / WEIGHTS, allow_pickle=False) as weights:
            return dict(weights)

    encoder = path / ENCODER
    learned = _restore(contents, read_weights, encoder if encoder.exists() else None, path)
    detector = kind(learned["fitted_config_"])
    detector.__dict__.update(learned)
    return detector


def to_state(detector) -> dict[str, Any]:
    """Return the state of a detector for `pickle` and `copy`: what was learned as JSON, arrays and a Keras file."""
    state = {name: value for name, value in detector.__dict__.items() if name not in LEARNED}
    if "scorer_" in detector.__dict__:
        encoder = None
        if _has_own_file(detector):
            with tempfile.TemporaryDirectory() as folder:
                detector.scorer_.encoder.save(pathlib.Path(folder, ENCODER))
                encoder = pathlib.Path(folder, ENCODER).read_bytes()
        state[_STATE] = (json.dumps(_describe(detector)), detector.scorer_.state(), encoder)
    return state


def from_state(detector, state: dict[str, Any]) -> None:
    """Set the attributes of a detector to a state from `to_state`."""
    detector.__dict__.update({name: value for name, value in state.items() if name != _STATE})
    if _STATE in state:
        contents, weights, encoder = state[_STATE]
        with contextlib.ExitStack() as stack:
            file = None
            if encoder is not None:
                file = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()), ENCODER)
                file.write_bytes(encoder)
            detector.__dict__.update(_restore(json.loads(contents), lambda: weights, file, pathlib.Path("pickle")))


def _has_own_file(detector) -> bool:
    """Return whether the encoder comes from elsewhere, so that it travels with the detector as a Keras file."""
    return detector.scorer_.encoder is not None and detector.fitted_config_.model.encoder not in ENCODERS


def _describe(detector) -> dict[str, Any]:
    """Return all that a detector has learned, except its weights, as plain values."""
    scorer = detector.scorer_
    return {
        "config": json.loads(detector.fitted_config_.to_json()),
        "image_size": scorer.network_size,
        "detail_size": scorer.image_size,
        "texture_channels": scorer.texture.channels if scorer.texture is not None else 0,
        "patches": scorer.patches is not None,
        "class_names": detector.class_names_,
        "calibration_scores": [float(score) for score in detector.calibration_scores_],
        "restarts": detector.restarts_,
        "evidence": _EVIDENCE,
    }


def _restore(contents, read_weights: Callable[[], dict], encoder: pathlib.Path | None, where: pathlib.Path) -> dict:
    """Return the attributes of a fitted detector.

    Args:
      contents: what `_describe` has returned.
      read_weights: function that returns the state of the scorer.
      encoder: the Keras file of an encoder from elsewhere, whose own file may be gone; None without one.
      where: where the detector lies, for messages.

    Raises:
      UsageError: these are not the contents of a detector, or the weights do not fit.
    """
    try:
        if "class_names" not in contents and "run" in contents:
            raise UsageError("it is the directory of a run that has saved no detector yet")
        config = Config.from_json(json.dumps(_current(contents["config"])))
        size, names = contents["image_size"], contents["class_names"]
        calibration_scores = np.array(contents["calibration_scores"], np.float32)
        channels, detail_size = contents.get("texture_channels", 0), contents.get("detail_size", size)
        least = 0 if config.scoring.score == "local" else 1
        if not (isinstance(size, int) and size >= least and isinstance(names, list) and names):
            raise UsageError("image_size or class_names is not what save writes")
        if config.scoring.score != "image" and not (channels in (1, 3) and isinstance(detail_size, int)):
            raise UsageError("texture_channels or detail_size is not what save writes")
        if calibration_scores.ndim != 1:
            raise UsageError("calibration_scores is not a list of numbers")
    except (ValueError, KeyError, TypeError) as error:
        raise _no_detector(where, error) from None
    model = None
    if size:
        saved = {"encoder": str(encoder), "encoder_weights": ""} if encoder else {}  # all weights follow below
        model = build_model(config.replace(**saved), size)
    texture = TextureDescriptor(detail_size, channels) if channels else None
    scorer = make_scorer(model, config, len(names), texture, with_patches=contents.get("patches", False))
    if scorer.by_likelihood and contents.get("evidence") != _EVIDENCE:
        raise UsageError(f"The detector in {where} is of an earlier version, with other evidence; fit it again")
    try:
        scorer.set_state(read_weights())
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"The weights in {where / WEIGHTS} do not fit: {one_line(error, 300)}") from None
    names = tuple(str(name) for name in names)
    return dict(zip(LEARNED, (names, config, contents.get("restarts", 0), calibration_scores, scorer), strict=True))


def _check_replaceable(path: pathlib.Path) -> None:
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    ownership.check_replaceable(path, _written(path), "The detector")


def _written(path: pathlib.Path) -> ownership.Contents | None:
    """Return what `save` has written into a folder; None if it has written nothing."""
    try:
        contents = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return None
    if not (isinstance(contents, dict) and set(contents) >= _KEYS):
        return None
    files = contents.get("files")
    if not isinstance(files, dict):  # of the first development version
        files = {name: (path / name).stat().st_size for name in (WEIGHTS, ENCODER) if (path / name).is_file()}
    return {**files, CONFIG: (path / CONFIG).stat().st_size}


def _no_detector(path: pathlib.Path, error: Exception) -> UsageError:
    return UsageError(f"There is no detector as written by `save` in {path}: {error}")


def _current(groups: dict) -> dict:
    """Add what the configurations of the first development version lack, with the values that were in force then."""
    absent: dict[str, dict] = {
        "data": {"resize": "squeeze"},
        "model": {"standardize": False},
        "loss": {"rotation_weight": 0.0},
        "scoring": {"evidence": False},
    }
    return {**groups, **{name: {**values, **groups.get(name, {})} for name, values in absent.items()}}
