"""How the parts of a score are added up: each in units of its spread over normal images."""

from __future__ import annotations

import numpy as np

# Two networks had a mean AUROC of 80.4 on classes 0, 3, 5 and 8 of CIFAR-10 without evidence, 81.6 with this weight,
# and 81.4 with 1.
EVIDENCE_WEIGHT = 0.5
PARTS = ("distance", "evidence", "image", "texture")  # rows of the units; detectors with patches have two more
PATCH_PARTS = ("patches", "places")


def names(has_patches: bool) -> tuple[str, ...]:
    """Return the name of every row of the units."""
    return PARTS + PATCH_PARTS if has_patches else PARTS


def combine(parts, units, score: str):
    """Add up the parts of a score.

    Args:
      parts: {name: float32 [n]}; `distance` with or without `evidence`, `texture` with or without `patches`.
      units: {name: (center, spread)} over normal images; `image` is that of the score of the image as a whole.
      score: "image", "local" or "both".

    Returns:
      float32 [n], higher for more anomalous images.
    """
    scaled = {name: (value - units[name][0]) / units[name][1] for name, value in parts.items()}
    local = [scaled[name] for name in ("texture", "patches") if name in scaled]
    if score == "local":
        return sum(local)
    image = scaled["distance"] + EVIDENCE_WEIGHT * scaled["evidence"] if "evidence" in scaled else scaled["distance"]
    return sum(local, (image - units["image"][0]) / units["image"][1]) if score == "both" else image


def measure(parts) -> dict[str, tuple[float, float]]:
    """Measure the units of all parts of a score, and of the score of the image as a whole.

    Args:
      parts: {name: float [n]} of normal images, or [n, h, w] for the values of all places.
    """
    units = {name: _center_and_spread(values) for name, values in parts.items()}
    if "distance" in parts:
        scored = {name: values for name, values in parts.items() if name in PARTS}
        units["image"] = _center_and_spread(combine(scored, units, "image"))
    return units


def _center_and_spread(values) -> tuple[float, float]:
    """Return mean and standard deviation, which stays finite if all values are equal."""
    values = np.asarray(values, np.float64)
    return values.mean(), max(values.std(), 1e-6 * max(np.abs(values).mean(), 1e-6))
