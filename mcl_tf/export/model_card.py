"""The model card: what a SavedModel is, as JSON beside it."""

from __future__ import annotations

import datetime
import json
import pathlib
import platform
import subprocess
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.version import __version__

EXTRA = "assets.extra"  # TF Serving's folder for what travels with a model and is not part of its graph
CARD = "model_card.json"


def make_card(config, scorer, calibration_scores, class_names, precision: str, figures=None) -> dict[str, Any]:
    """The card of a detector.

    Args:
      config: its `Config`.
      scorer: its `SelfEnsembleScorer`.
      calibration_scores: float [m], of held-out normal pictures.
      class_names: a name a class.
      precision: type of the network's weights.
      figures: what the test split said, e.g. the content of `metrics.json`; None where there was none.
    """
    data, rate = config.data, config.scoring.pass_rate
    return {
        "model": "image anomaly detection by masked contrastive learning and self-ensemble inference",
        "reference": "arXiv:2105.08793",
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "dataset": figures.get("dataset", data.dataset) if figures else None,
        "classes": list(class_names),
        "labelled": data.labelled,
        "image_size": scorer.image_size,
        "encoder": config.model.encoder,
        "views": config.scoring.views,
        "method": config.scoring.method,
        "export_precision": precision,
        "threshold": {
            "value": float(scorer.threshold),
            "set_by": set_by_quantile(rate),
            "quantile": rate,
            "calibration_pictures": int(np.size(calibration_scores)),
        },
        "figures": figures,
        "versions": {
            "mcl_tf": __version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "python": platform.python_version(),
        },
        "commit": commit(),
    }


def set_by_quantile(quantile: float) -> str:
    """How a threshold was set that lets a share of the held-out normals pass, in words."""
    return f"the smallest held-out score that {quantile:g} of the held-out normals do not exceed"


def commit() -> str | None:
    """The commit of the checkout that this library runs from; None for an installed package."""
    folder = pathlib.Path(__file__).resolve().parent.parent
    git = ["git", "-C", str(folder)]
    try:
        # A wheel within another project's checkout must not take that one's commit.
        subprocess.run([*git, "ls-files", "--error-unmatch", "version.py"], check=True, capture_output=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def write_card(saved_model: pathlib.Path, card: dict[str, Any]) -> None:
    """Writes the card into a SavedModel's folder."""
    path = saved_model / EXTRA / CARD
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(card, indent=2) + "\n")


def read_card(saved_model) -> dict[str, Any]:
    """The card of a SavedModel.

    Raises:
      UsageError: there is none with the fields that scoring needs.
    """
    path = pathlib.Path(saved_model) / EXTRA / CARD
    try:
        card = json.loads(path.read_text())
        if not (isinstance(card["image_size"], int) and isinstance(card["threshold"], dict)):
            raise ValueError("image_size or threshold is not what the export writes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no model card, which the export would have written: {error}") from None
    return card
