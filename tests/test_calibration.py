"""Calibration: thresholds and p-values against their definitions, and their promise on fresh normal images."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.datasets import load_digits
from sklearn.metrics import f1_score

from mcl_tf import AnomalyDetector, calibration
from mcl_tf.errors import UsageError

RATES = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99, 1.0)


# The conformal quantile.


@pytest.mark.parametrize("count", [1, 2, 3, 10, 18, 19, 20, 99, 100, 1000])
@pytest.mark.parametrize("pass_rate", RATES)
def test_threshold_is_the_conformal_quantile(count, pass_rate, rng):
    scores = rng.permutation(np.linspace(-3.0, 5.0, count))
    found = calibration.threshold_at(scores, pass_rate)
    # In hundredths, so that the rank is exact: ceil((m + 1) * rate).
    rank = -(-(count + 1) * round(100 * pass_rate) // 100)
    assert found == np.sort(scores)[min(max(rank, 1), count) - 1]


@pytest.mark.parametrize(
    ("count", "pass_rate", "rank"),
    [(19, 0.95, 19), (20, 0.95, 20), (38, 0.95, 38), (39, 0.95, 38), (99, 0.99, 99), (9, 0.9, 9), (9, 0.7, 7)],
)
def test_threshold_by_hand(count, pass_rate, rank):
    """20 * 0.95 is 19, although the product in floating point is not quite."""
    assert calibration.threshold_at(np.arange(1, count + 1), pass_rate) == rank


def test_threshold_does_not_depend_on_the_order(rng):
    scores = rng.normal(size=50).astype(np.float32)
    assert calibration.threshold_at(scores, 0.9) == calibration.threshold_at(np.sort(scores)[::-1], 0.9)


@pytest.mark.parametrize("pass_rate", [0.5, 0.9, 0.95, 0.99])
def test_images_needed_is_the_smallest_number_that_keeps_the_rate(pass_rate):
    needed = calibration.images_needed(pass_rate)
    assert needed == {0.5: 1, 0.9: 9, 0.95: 19, 0.99: 99}[pass_rate]
    assert calibration.promised_rate(needed, pass_rate) == pytest.approx(1.0 - pass_rate)
    assert calibration.promised_rate(needed - 1, pass_rate) == pytest.approx(1.0 / needed)
    assert calibration.promised_rate(needed - 1, pass_rate) > 1.0 - pass_rate


@pytest.mark.parametrize(("pass_rate", "needed"), [(0.0, 1), (0.3, 1), (1.0, 1)])
def test_images_needed_at_the_ends(pass_rate, needed):
    assert calibration.images_needed(pass_rate) == needed


@pytest.mark.parametrize(
    ("count", "pass_rate", "promised"),
    [(19, 0.95, 0.05), (1000, 0.95, 0.05), (15, 0.95, 1 / 16), (3, 0.95, 0.25), (99, 0.99, 0.01), (50, 1.0, 1 / 51)],
)
def test_promised_rate_by_hand(count, pass_rate, promised):
    assert calibration.promised_rate(count, pass_rate) == pytest.approx(promised)


@pytest.mark.parametrize("draw", ["normal", "lognormal", "standard_cauchy", "uniform"])
@pytest.mark.parametrize(("count", "pass_rate"), [(15, 0.95), (19, 0.95), (50, 0.95), (40, 0.8)])
def test_flagged_share_of_fresh_normals_keeps_the_promise(draw, count, pass_rate):
    """Over 4000 seeds, whatever the distribution: one fresh score each, flagged with the promised probability.

    Without ties the probability is exactly 1 - k / (m + 1), with k the rank of the threshold. The number of flagged
    scores is binomial; the band holds all but one in ten million of them.
    """
    seeds = 4000
    scores = getattr(np.random.default_rng([count, *draw.encode()]), draw)(size=(seeds, count + 1))
    thresholds = np.array([calibration.threshold_at(row[:count], pass_rate) for row in scores])
    flagged = int(np.sum(scores[:, count] > thresholds))
    exact = 1.0 - min(math.ceil((count + 1) * pass_rate - 1e-9), count) / (count + 1)
    assert exact <= calibration.promised_rate(count, pass_rate) + 1e-12
    low, high = scipy.stats.binom.ppf([5e-8, 1.0 - 5e-8], seeds, exact)
    assert low <= flagged <= high
    # The plain quantile of NumPy, in its place, would leave the band.
    plain = int(np.sum(scores[:, count] > np.quantile(scores[:, :count], pass_rate, axis=1)))
    assert plain > flagged


# P-values.


@pytest.mark.parametrize("held_out", [[2.0], [1.0, 2.0, 2.0, 3.0], [3.0, 1.0, 2.0]])
def test_p_values_are_counted(held_out):
    scores = np.array([0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 99.0, -99.0], np.float32)
    expected = [(1 + sum(h >= s for h in held_out)) / (len(held_out) + 1) for s in scores]
    found = calibration.p_values(held_out, scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # float32
    assert found.min() == pytest.approx(1 / (len(held_out) + 1))  # never 0
    assert found.max() == 1.0


def test_p_values_compare_float32_scores():
    """A held-out score counts as equal to itself, in whatever precision it comes."""
    held_out = np.array([0.1, 0.2, 0.3])
    found = calibration.p_values(held_out.tolist(), held_out.astype(np.float32))
    np.testing.assert_allclose(found, [1.0, 0.75, 0.5], rtol=1e-6)


def test_p_values_of_no_scores():
    assert calibration.p_values([1.0, 2.0], []).shape == (0,)


@pytest.mark.parametrize("level", [0.05, 0.1, 0.5])
def test_p_values_of_fresh_normals_are_conservative(level):
    """P(p <= level) is at most the level; without ties it is floor((m + 1) level) / (m + 1)."""
    seeds, count = 4000, 30
    scores = np.random.default_rng(7).gumbel(size=(seeds, count + 1)).astype(np.float32)
    found = np.array([calibration.p_values(row[:count], row[count:])[0] for row in scores])
    exact = math.floor((count + 1) * level) / (count + 1)
    low, high = scipy.stats.binom.ppf([5e-8, 1.0 - 5e-8], seeds, exact)
    assert exact <= level
    assert low <= np.sum(found <= level) <= high


@pytest.mark.parametrize(("count", "pass_rate"), [(19, 0.95), (39, 0.95), (100, 0.9), (10, 0.5)])
def test_threshold_and_p_values_agree(count, pass_rate, rng):
    """An image is above the threshold exactly if its p-value is at most 1 - pass_rate."""
    held_out = rng.normal(size=count).astype(np.float32)
    scores = np.concatenate([held_out, rng.normal(size=500).astype(np.float32)])
    flagged = scores > calibration.threshold_at(held_out, pass_rate)
    p_values = calibration.p_values(held_out, scores)
    np.testing.assert_array_equal(flagged, p_values <= 1.0 - pass_rate + 1e-6)
    assert 0 < flagged.sum() < len(flagged)


# Thresholds from labelled examples.


def false_and_true_rate(scores, is_anomaly, threshold):
    flagged = scores > threshold
    return np.mean(flagged[~is_anomaly]), np.mean(flagged[is_anomaly])


def brute_force(scores, is_anomaly, value):
    """Return the best value over every threshold that flags another set of images."""
    ordered = np.unique(scores)
    thresholds = [ordered[0] - 1.0, *((ordered[1:] + ordered[:-1]) / 2), ordered[-1] + 1.0]
    return max(value(scores, is_anomaly, threshold) for threshold in thresholds)


def f1(scores, is_anomaly, threshold):
    return f1_score(is_anomaly, scores > threshold, zero_division=0.0)


def youden(scores, is_anomaly, threshold):
    false_rate, true_rate = false_and_true_rate(scores, is_anomaly, threshold)
    return true_rate - false_rate


def true_rate_within(limit):
    def value(scores, is_anomaly, threshold):
        false_rate, true_rate = false_and_true_rate(scores, is_anomaly, threshold)
        return true_rate if false_rate <= limit + 1e-9 else -1.0

    return value


TARGETS = {
    "f1": f1,
    "youden": youden,
    "fpr=0": true_rate_within(0.0),
    "fpr=0.01": true_rate_within(0.01),
    "fpr=.1": true_rate_within(0.1),
    "fpr=1e-1": true_rate_within(0.1),
    "fpr=1": true_rate_within(1.0),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_threshold_from_examples_is_the_best_one(target, ties, seed):
    rng = np.random.default_rng(seed)
    is_anomaly = rng.permutation(np.arange(130) < 30)
    scores = rng.normal(size=130) + 1.5 * is_anomaly
    scores = np.round(scores) if ties else scores
    found = calibration.threshold_for(scores, is_anomaly, target)
    value = TARGETS[target]
    assert value(scores, is_anomaly, found) == pytest.approx(brute_force(scores, is_anomaly, value))
    # Half-way between two scores, so that rounding flags no other image; the largest one if nothing is to be flagged.
    assert found not in scores or found == scores.max()


@pytest.mark.parametrize("target", ["f1", "youden", "fpr=0.01"])
def test_threshold_from_separated_examples_lies_in_the_middle(target):
    scores, is_anomaly = np.array([5.0, 1.0, 2.0, 7.0]), np.array([1, 0, 0, 1])
    assert calibration.threshold_for(scores, is_anomaly, target) == 3.5


@pytest.mark.parametrize("target", ["f1", "youden", "fpr=0.01"])
def test_threshold_from_reversed_examples_is_finite(target):
    """Every anomaly scores below every normal image; the best that is possible is still found."""
    scores, is_anomaly = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, True, False, False])
    found = calibration.threshold_for(scores, is_anomaly, target)
    assert math.isfinite(found)
    value = TARGETS[target]
    assert value(scores, is_anomaly, found) == pytest.approx(brute_force(scores, is_anomaly, value))


@pytest.mark.parametrize(
    "target", ["", "F1", "fpr", "fpr=", "fpr=2", "fpr=-0.1", "fpr=1%", "fpr=nan", "auroc", "fpr=0.1 "]
)
def test_unknown_targets_are_refused(target):
    with pytest.raises(UsageError, match="target must be f1, youden or fpr=RATE.*Received: ") as error:
        calibration.threshold_for([1.0, 2.0], [False, True], target)
    assert str(error.value).endswith(f"Received: {target}")


@pytest.mark.parametrize(
    ("is_anomaly", "received"),
    [([1, 1], "0 normal images and 2 anomalies"), ([0, 0], "2 normal images and 0 anomalies")],
)
def test_examples_of_one_kind_are_refused(is_anomaly, received):
    with pytest.raises(UsageError, match=f"needs normal images and anomalies. Received: {received}"):
        calibration.threshold_for([1.0, 2.0], is_anomaly, "f1")


# The promise of a detector.


@pytest.mark.slow
def test_a_detector_keeps_its_promise_with_30_images():
    """Fresh digits, over several draws of 30 training images of one class, by an untrained network.

    15 of 30 images are held out, which promises that at most 1/16 of new images are flagged. The scores of one detector
    share a threshold: by the theory of order statistics, the number that it flags is beta-binomial. The limit is that
    of the sum over the draws, by simulation, which all but one in a thousand such tests keep.
    """
    digits = load_digits()
    images = (digits.images * 15.9).astype(np.uint8)[..., None]
    rng = np.random.default_rng(0)
    flagged = fresh = 0
    draws = []
    for seed, digit in enumerate((0, 1, 3, 4, 6, 7)):
        own = rng.permutation(images[digits.target == digit])
        detector = AnomalyDetector(encoder="small", width=0.5, projection_hidden=32, epochs=0, seed=seed).fit(own[:30])
        assert len(detector.calibration_scores_) == 15
        assert detector.promised_rate_ == pytest.approx(1 / 16)
        flagged += detector.predict(own[30:]).sum()
        fresh += len(own) - 30
        draws.append(scipy.stats.betabinom.rvs(len(own) - 30, 1, 15, size=100_000, random_state=seed))
    low, high = np.quantile(np.sum(draws, axis=0), [0.0005, 0.9995])
    assert fresh > 800
    assert low <= flagged <= high
