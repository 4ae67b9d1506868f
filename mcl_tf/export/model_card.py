"""The model card: a description of a SavedModel as JSON beside it."""

from __future__ import annotations

import datetime
import json
import pathlib
import platform
import subprocess
from typing import Any

import keras
import tensorflow as tf

from mcl_tf.config import RESIZES
from mcl_tf.errors import UsageError
from mcl_tf.version import __version__

EXTRA = "assets.extra"  # TensorFlow Serving's folder for files that are not part of the graph
CARD = "model_card.json"


def make_card(detector, precision: str, metrics=None) -> dict[str, Any]:
    """Create the card of a detector.

    Args:
      detector: a fitted `AnomalyDetector`.
      precision: type of the network's weights.
      metrics: the results on a test split, e.g. the content of `metrics.json`; None without one.
    """
    config, scorer = detector.fitted_config_, detector.scorer_
    data, rate = config.data, config.scoring.pass_rate
    trained = scorer.network is not None and not config.model.freeze_encoder
    return {
        "model": "image anomaly detection by masked contrastive learning and self-ensemble inference",
        "reference": "arXiv:2105.08793",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "dataset": metrics.get("dataset", data.dataset) if metrics else None,
        "classes": list(detector.class_names_),
        "labelled": data.labelled,
        "image_size": scorer.image_size,
        "resize": scorer.resize,
        "encoder": config.model.encoder,
        "loss": config.loss.loss if trained else None,
        "rotations": trained and config.augmentation.rotations,
        "views": scorer.view_count,
        "view_area": config.scoring.view_area,
        "embedding": config.scoring.embedding,
        "evidence": scorer.evidence or scorer.by_likelihood,
        "score": config.scoring.score,
        "restarts": detector.restarts_,
        "method": config.scoring.method,
        "export_precision": precision,
        "threshold": {
            "value": float(scorer.threshold),
            "set_by": set_by_quantile(rate),
            "quantile": rate,
            "promised_rate": detector.promised_rate_,
            "calibration_images": len(detector.calibration_scores_),
        },
        "metrics": metrics,
        "versions": {
            "mcl_tf": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
    }


def set_by_quantile(quantile: float) -> str:
    """Return a description of a threshold that passes a share of new normal images."""
    return f"the conformal quantile {quantile:g} of the scores of held-out normal images"


def commit() -> str | None:
    """Return the commit of the checkout that this library runs from; None for an installed package."""
    package = pathlib.Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(package)]
    try:
        # A wheel installed within another project's checkout must not report the commit of that project.
        subprocess.run([*git, "ls-files", "--error-unmatch", "version.py"], check=True, capture_output=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def write_card(saved_model: pathlib.Path, card: dict[str, Any]) -> None:
    """Write the card into the folder of a SavedModel."""
    path = saved_model / EXTRA / CARD
    path.parent.mkdir(exist_ok=True)
    path.write_text(to_json(card))


def read_card(saved_model) -> dict[str, Any]:
    """Read the card of a SavedModel.

    Args:
      saved_model: its folder.

    Raises:
      UsageError: there is none with the fields that scoring needs.
    """
    path = pathlib.Path(saved_model) / EXTRA / CARD
    try:
        return parse_card(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a model card as written by the export: {error}") from None


def to_json(card: dict[str, Any]) -> str:
    """Return a card as indented JSON."""
    return json.dumps(card, indent=2) + "\n"


def parse_card(text: str) -> dict[str, Any]:
    """Return the card that a JSON text holds.

    Raises:
      ValueError: it holds none with the fields that scoring needs.
    """
    card = json.loads(text)
    try:
        card.setdefault("resize", "squeeze")  # cards of the first development version have none
        usable = isinstance(card["image_size"], int) and isinstance(card["threshold"], dict)
        usable = usable and card["resize"] in RESIZES
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(error) from None
    if not usable:
        raise ValueError("image_size, resize or threshold is not what the export writes")
    return card
