"""Detectors in folders: configuration as JSON, weights as NumPy arrays, an encoder from elsewhere as a Keras file."""

from __future__ import annotations

import json
import os
import pathlib
import zipfile

import numpy as np

from mcl_tf.config import ENCODERS, Config
from mcl_tf.errors import UsageError, one_line
from mcl_tf.scorer import make_scorer
from mcl_tf.texture import TextureDescriptor
from mcl_tf.training.trainer import build_model
from mcl_tf.utils.atomic import atomic_folder

CONFIG, WEIGHTS, ENCODER = "config.json", "weights.npz", "encoder.keras"


def save(detector, path) -> None:
    """Save a fitted `AnomalyDetector`, see its method `save`."""
    scorer, path = detector.scorer_, pathlib.Path(path).expanduser().resolve()
    contents = {
        "config": json.loads(detector.fitted_config_.to_json()),
        "image_size": scorer.network_size,
        "detail_size": scorer.image_size,
        "texture_channels": scorer.texture.channels if scorer.texture is not None else 0,
        "class_names": detector.class_names_,
        "calibration_scores": [float(score) for score in detector.calibration_scores_],
        "restarts": detector.restarts_,
    }
    try:
        foreign = set(os.listdir(path)) - {CONFIG, WEIGHTS, ENCODER} if path.exists() else set()
        if foreign:
            raise UsageError(f"The detector needs a folder of its own. {path} holds {min(foreign)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(path) as folder:
            np.savez(folder / WEIGHTS, **scorer.state())
            if scorer.encoder is not None and detector.fitted_config_.model.encoder not in ENCODERS:
                scorer.encoder.save(folder / ENCODER)
            (folder / CONFIG).write_text(json.dumps(contents, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"The detector cannot be saved in {path}: {error}") from None


def load(kind: type, path):
    """Load a detector, see `AnomalyDetector.load`.

    Args:
      kind: `AnomalyDetector` or a subclass.
      path: the folder.
    """
    path = pathlib.Path(path).expanduser()
    try:
        contents = json.loads((path / CONFIG).read_text())
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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"There is no detector as written by `save` in {path}: {error}") from None
    model = None
    if config.scoring.score != "local":
        # An encoder from elsewhere lies in the folder, because its own file may be gone. All weights follow below.
        saved = {"encoder": str(path / ENCODER), "encoder_weights": ""} if (path / ENCODER).exists() else {}
        model = build_model(config.replace(**saved), size)
    texture = TextureDescriptor(detail_size, channels) if channels else None
    scorer = make_scorer(model, config, len(names), texture)
    try:
        with np.load(path / WEIGHTS, allow_pickle=False) as weights:
            scorer.set_state(dict(weights))
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UsageError(f"The weights in {path / WEIGHTS} do not fit: {one_line(error, 300)}") from None
    detector = kind(config)
    detector.class_names_, detector.fitted_config_ = tuple(str(name) for name in names), config
    detector.calibration_scores_, detector.scorer_ = calibration_scores, scorer
    detector.restarts_ = contents.get("restarts", 0)
    return detector


def _current(groups: dict) -> dict:
    """Add what the configurations of the first development version lack, with the values that were in force then."""
    absent: dict[str, dict] = {
        "model": {"standardize": False},
        "loss": {"rotation_weight": 0.0},
        "scoring": {"evidence": False},
    }
    return {**groups, **{name: {**values, **groups.get(name, {})} for name, values in absent.items()}}
