"""Error rates at every position of the threshold's slider, and the curves behind which they stand.

The page has counts of images and no scores: they are exact for any number of images and take the same space for all.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from sklearn import metrics

POSITIONS = 1000  # of the slider, besides that of the detector's threshold
BINS = (12, 60)  # of a histogram, at least and at most
_LONG = 20.0  # spreads of the normal scores from which on the axis is compressed
_MARGIN = 0.02  # share of the axis beyond the scores
_POINTS = 400  # of a curve


@dataclasses.dataclass(frozen=True)
class Axis:
    """The axis of the scores, from 0 to 1.

    It is linear, or, where outliers would leave no room for the others, linear around `center` and logarithmic far from
    it: asinh((score - center) / spread).

    Attributes:
      low: the position of 0 on the scale.
      high: the position of 1 on the scale.
      center: a score.
      spread: a positive difference of scores; None for a linear axis.
    """

    low: float
    high: float
    center: float = 0.0
    spread: float | None = None

    def positions(self, scores) -> np.ndarray:
        """Return the positions of scores, float64 of the same shape."""
        return (self._scaled(np.asarray(scores, np.float64)) - self.low) / (self.high - self.low)

    def scores(self, positions) -> np.ndarray:
        """Return the scores at positions, float64 of the same shape."""
        scaled = self.low + np.asarray(positions, np.float64) * (self.high - self.low)
        return scaled if self.spread is None else self.center + self.spread * np.sinh(scaled)

    def _scaled(self, scores):
        return scores if self.spread is None else np.arcsinh((scores - self.center) / self.spread)


def make_axis(is_anomaly, scores, threshold: float) -> Axis:
    """Return an axis on which all scores and the threshold lie, and the normal ones spread out.

    Args:
      is_anomaly: bool [n], with normal images.
      scores: float [n], finite.
      threshold: the detector's.
    """
    shown = np.append(np.asarray(scores, np.float64), threshold)
    early, center, late = np.quantile(np.asarray(scores, np.float64)[~np.asarray(is_anomaly, bool)], (0.05, 0.5, 0.95))
    spread = late - early
    compressed = 0.0 < spread * _LONG < np.ptp(shown)
    axis = Axis(0.0, 1.0, float(center), float(spread)) if compressed else Axis(0.0, 1.0)
    ends = axis.positions([shown.min(), shown.max()])
    margin = _MARGIN * np.ptp(ends) or 0.5 * max(1.0, abs(ends[0]))  # all scores may be equal
    return dataclasses.replace(axis, low=float(ends[0] - margin), high=float(ends[1] + margin))


def count_above(is_anomaly, scores, threshold: float, axis: Axis) -> dict:
    """Count the images above every threshold of the slider.

    Args:
      is_anomaly: bool [n].
      scores: float [n].
      threshold: the detector's, which is one of the positions.
      axis: see `make_axis`.

    Returns:
      `thresholds` float [k], rising, and their `positions` on the axis; `normal` and `anomalous` int [k], the numbers
      of images with a score above each; `totals`, those of all images, normal and anomalous; `own`, the index of the
      detector's threshold; `decimals`, with which thresholds are shown. Plain values, as for JSON.
    """
    scores, is_anomaly = np.asarray(scores, np.float64), np.asarray(is_anomaly, bool)
    grid = axis.scores(np.linspace(0.0, 1.0, POSITIONS + 1))
    decimals = min(max(0, math.ceil(-math.log10(np.diff(grid).min()))), 9)
    # What a person reads and types is what was counted; the detector's own threshold alone may have more digits.
    grid = np.unique(np.round(grid, decimals))
    own = int(np.searchsorted(grid, threshold))
    thresholds = np.insert(grid, own, threshold)
    counts = {
        name: len(chosen) - np.searchsorted(np.sort(chosen), thresholds, side="right")
        for name, chosen in (("normal", scores[~is_anomaly]), ("anomalous", scores[is_anomaly]))
    }
    return {
        "thresholds": thresholds.tolist(),
        "positions": np.round(axis.positions(thresholds), 5).tolist(),
        **{name: above.tolist() for name, above in counts.items()},
        "totals": [int(np.sum(~is_anomaly)), int(np.sum(is_anomaly))],
        "own": own,
        "decimals": decimals,
    }


def histograms(is_anomaly, scores, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of normal images and of anomalies in bins from left to right, fewer bins for fewer images.

    Args:
      is_anomaly: bool [n].
      scores: float [n].
      axis: see `make_axis`.

    Returns:
      Two arrays float64 [bins], each with the sum 1, or 0 without images of its kind.
    """
    bins = int(np.clip(2.0 * np.sqrt(len(scores)), *BINS))
    places, anomalous = axis.positions(scores), np.asarray(is_anomaly, bool)
    counts = [np.histogram(places[chosen], bins, (0.0, 1.0))[0] for chosen in (~anomalous, anomalous)]
    return counts[0] / max(1, counts[0].sum()), counts[1] / max(1, counts[1].sum())


def ticks(axis: Axis, count: int = 6) -> np.ndarray:
    """Return rounded scores that are spread over an axis, float64 [about count]."""
    if axis.spread is None:
        from matplotlib.ticker import MaxNLocator

        values = np.asarray(MaxNLocator(count).tick_values(axis.low, axis.high))
    else:
        spread_out = axis.scores(np.linspace(0.03, 0.97, count))
        values = np.unique([float(f"{value:.2g}") for value in spread_out])
    places = axis.positions(values)
    return values[(places >= 0.0) & (places <= 1.0)]


def roc(is_anomaly, scores) -> np.ndarray:
    """Return points (share of normal images flagged, share of anomalies found) of the ROC curve, float64 [p, 2]."""
    flagged, found, _ = metrics.roc_curve(is_anomaly, scores)
    return _thinned(np.stack([flagged, found], axis=1))


def precision_recall(is_anomaly, scores) -> np.ndarray:
    """Return points (recall, precision) of the anomalies, from recall 0 on, float64 [p, 2]."""
    precision, recall, _ = metrics.precision_recall_curve(is_anomaly, scores)
    return _thinned(np.stack([recall, precision], axis=1)[::-1])


def _thinned(points: np.ndarray) -> np.ndarray:
    """Leave out points of a curve that are closer together than can be seen."""
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(points, axis=0)).sum(1))])
    kept = np.searchsorted(length, np.linspace(0.0, length[-1], _POINTS))
    return points[np.unique(np.append(kept, len(points) - 1))] if len(points) > _POINTS else points
