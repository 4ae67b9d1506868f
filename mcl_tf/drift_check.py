"""Drift: whether the scores of new images are still those of normal images.

The only reference are the scores of the m normal images that were held out. As long as n new images are normal, all
n + m scores are exchangeable, and two statistics have a known distribution, whatever that of the scores is:

- The distance of the two empirical distribution functions, which the two-sample test of Kolmogorov and Smirnov uses.
  Conformal p-values hold the same ranks, but a one-sample test of them against the uniform distribution on
  {1/(m+1), ..., 1} is wrong: each p-value alone is uniform, but all are measured with the same m images. Given these,
  the n p-values are independent with a distribution function that differs from the uniform one by about 1/sqrt(m). A
  test that takes it for uniform finds this difference as soon as n is not much smaller than m, without any drift.
- The number of scores above the threshold. The threshold is the k-th smallest held-out score; the probability that a
  normal image exceeds it is random, too, with the distribution Beta(m + 1 - k, k), whose mean is the promised rate. The
  number is therefore beta-binomial, not binomial.

The first one finds shifts of the whole distribution, the second one a few anomalies among normal images. Bonferroni's
correction makes one p-value of both, and Holm's method decides for several groups of images; both hold for tests that
depend on each other, as these do.

References: Massey, "The Kolmogorov-Smirnov test for goodness of fit", JASA 46 (1951); Bates et al., "Testing for
outliers with conformal p-values", Annals of Statistics 51 (2023; arXiv:2104.08279); Holm, "A simple sequentially
rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import dataclasses
import fractions
import math
from typing import cast

import numpy as np
from scipy import stats

from mcl_tf.calibration import threshold_at
from mcl_tf.config import ScoringConfig
from mcl_tf.errors import UsageError

LEVEL = 0.05  # probability of finding drift where there is none
FEWEST = 20  # scores; fewer say too little
_MOST_HELD_OUT = 2000  # fractions with larger denominators are closer than float32 can tell


@dataclasses.dataclass(frozen=True)
class Drift:
    """What the scores of a group of images say.

    Attributes:
      images: number of images.
      distance: largest difference of the distribution functions of these and the held-out scores, 0 to 1.
      distance_p_value: probability of at least this distance without drift.
      flagged: number of images above the threshold.
      share: `flagged` as a share.
      low: lower end of the 95 % interval (Clopper and Pearson) of the probability that such an image is flagged.
      high: its upper end.
      promised_rate: share of normal images that the threshold flags at most; None if it promises nothing.
      flagged_p_value: probability of at least `flagged` images above the threshold without drift; None likewise.
      p_value: the smaller of the two p-values, times their number, at most 1.
    """

    images: int
    distance: float
    distance_p_value: float
    flagged: int
    share: float
    low: float
    high: float
    promised_rate: float | None
    flagged_p_value: float | None
    p_value: float


def drift(
    scores, calibration_scores, *, promised_rate: float | None = 1.0 - ScoringConfig.pass_rate, is_anomaly=None
) -> Drift:
    """Test whether scores are those of normal images; a `p_value` below 0.05 means drift.

    Args:
      scores: float [n], scores of new images, n at least 20.
      calibration_scores: float [m], scores of held-out normal images, m at least 1: `detector.calibration_scores_`.
      promised_rate: share of normal images that the threshold flags at most, above 0 and below 1; None if the threshold
        is another one, which promises nothing.
      is_anomaly: bool [n], which images were flagged; by default, those above the threshold of `promised_rate`.

    Raises:
      UsageError: too few scores, one that is not finite, a rate out of range, or neither rate nor `is_anomaly`.
    """
    scores, held_out = (np.asarray(values, np.float32).ravel() for values in (scores, calibration_scores))
    _check(scores, held_out, promised_rate, is_anomaly)
    if is_anomaly is None:
        is_anomaly = scores > np.float32(threshold_at(held_out, 1.0 - cast(float, promised_rate)))
    images, flagged = len(scores), int(np.sum(is_anomaly))
    compared = stats.ks_2samp(scores, held_out)
    by_number = None if promised_rate is None else _p_value_of_flagged(flagged, images, len(held_out), promised_rate)
    p_values = [float(value) for value in (compared.pvalue, by_number) if value is not None]
    interval = stats.binomtest(flagged, images).proportion_ci()
    return Drift(
        images=images,
        distance=float(compared.statistic),
        distance_p_value=float(compared.pvalue),
        flagged=flagged,
        share=flagged / images,
        low=float(interval.low),
        high=float(interval.high),
        promised_rate=promised_rate,
        flagged_p_value=by_number,
        p_value=min(1.0, len(p_values) * min(p_values)),
    )


def _check(scores, held_out, promised_rate, is_anomaly) -> None:
    """Raise UsageError where the arguments of `drift` are not what it needs."""
    if len(scores) < FEWEST or not len(held_out) or not (np.isfinite(scores).all() and np.isfinite(held_out).all()):
        raise UsageError(
            f"A test for drift needs at least {FEWEST} scores and 1 held-out score, all finite. "
            f"Received: {len(scores)} and {len(held_out)}, {np.sum(~np.isfinite(scores))} not finite"
        )
    if promised_rate is not None and not 0.0 < promised_rate < 1.0:
        raise UsageError(f"promised_rate must be a number above 0 and below 1, or none. Received: {promised_rate}")
    if is_anomaly is None and promised_rate is None:
        raise UsageError("Without a promised rate, is_anomaly must say which images were flagged. Received: neither")
    if is_anomaly is not None and np.shape(is_anomaly) != scores.shape:
        raise UsageError(f"is_anomaly must be one bool per score. Received: {np.shape(is_anomaly)} for {scores.shape}")


def _p_value_of_flagged(flagged: int, images: int, held_out: int, promised_rate: float) -> float:
    """Return the probability that so many of the images are flagged without drift."""
    above = max(1, math.floor((held_out + 1) * promised_rate + 1e-9))  # m + 1 - k; see `calibration.threshold_at`
    if above > held_out:
        return 1.0
    return float(stats.betabinom.sf(flagged - 1, images, above, held_out + 1 - above))


def holm(p_values) -> np.ndarray:
    """Return p-values float [n] that are corrected for their number by Holm's method: below 0.05 means rejected."""
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)
    corrected = np.empty_like(p_values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1)))
    return corrected


def ranks_from(p_values) -> tuple[np.ndarray, np.ndarray]:
    """Return scores that stand for the real ones, from conformal p-values alone.

    A p-value is (1 + a) / (m + 1), where a is the number of held-out scores that are at least as high, so that m - a
    held-out scores are lower. Ranks are all that the two-sample test looks at.

    Args:
      p_values: float [n], as in a file of scores; fractions whose common denominator is m + 1.

    Returns:
      float [n] and float [m]: scores, and held-out scores, whose order is that of the real ones.

    Raises:
      UsageError: they are no such fractions, or m is above 1999, where float32 cannot tell them apart.
    """
    p_values = np.asarray(p_values, np.float64)
    found = [fractions.Fraction(value).limit_denominator(_MOST_HELD_OUT) for value in np.unique(p_values)]
    denominator = math.lcm(*(fraction.denominator for fraction in found))
    numerators = np.rint(p_values * denominator)
    close = np.abs(numerators / denominator - p_values) < 1e-7
    if denominator > _MOST_HELD_OUT or not (close & (numerators >= 1) & (numerators <= denominator)).all():
        raise UsageError(
            f"The p-values are not those of at most {_MOST_HELD_OUT - 1} held-out images; compare the scores with the "
            f"held-out scores of the SavedModel. Received: {p_values.min():g} to {p_values.max():g}"
        )
    return denominator - numerators, np.arange(1, denominator) - 0.5
