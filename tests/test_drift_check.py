"""The tests for drift: their level without drift, by simulation, what they find, and values that follow by hand."""

import numpy as np
import pytest
from scipy import stats

from mcl_tf import calibration
from mcl_tf.drift_check import LEVEL, drift, holm, ranks_from
from mcl_tf.errors import UsageError


def simulate(times, held_out, images, shift=0.0, anomalies=0.0):
    """Return the drifts of normally distributed scores, of which all are shifted and a share is far above."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(times):
        scores = rng.normal(shift, 1.0, images) + 6.0 * (rng.random(images) < anomalies)
        found.append(drift(scores, rng.normal(size=held_out)))
    return found


@pytest.mark.parametrize(("held_out", "images"), [(60, 50), (19, 200)])
def test_without_drift_each_test_rejects_at_its_level(held_out, images):
    times = 100
    found = simulate(times, held_out, images)
    for name in ("distance_p_value", "flagged_p_value", "p_value"):
        p_values = np.array([getattr(result, name) for result in found])
        for level in (LEVEL, 0.5):
            rejected = np.sum(p_values <= level)
            assert rejected <= stats.binom.ppf(0.999, times, level), (name, level)
        if name == "distance_p_value":  # the tests of a number and of both are conservative
            assert rejected >= stats.binom.ppf(0.001, times, 0.4)


def test_a_one_sample_test_of_the_p_values_would_find_drift_in_normal_images():
    rng = np.random.default_rng(0)
    one_sample, found = [], []
    for _ in range(10):
        held_out, scores = rng.normal(size=50), rng.normal(size=1000)
        one_sample.append(stats.kstest(calibration.p_values(held_out, scores), "uniform").pvalue <= LEVEL)
        found.append(drift(scores, held_out).p_value <= LEVEL)
    assert sum(one_sample) >= 9
    assert sum(found) <= 3


@pytest.mark.parametrize(
    ("options", "by"),
    [
        ({"shift": 0.5}, "distance_p_value"),
        ({"shift": -0.5}, "distance_p_value"),
        ({"anomalies": 0.15}, "flagged_p_value"),
    ],
)
def test_drift_in_200_images_is_found(options, by):
    found = simulate(20, 200, 200, **options)
    assert sum(result.p_value <= LEVEL for result in found) >= 17
    assert sum(getattr(result, by) <= LEVEL / 2 for result in found) >= 17


def test_values_that_follow_by_hand():
    held_out = np.arange(19)
    found = drift([*np.arange(10) + 0.5, *[17.5] * 9, 30.0], held_out, promised_rate=0.05)
    # Below 17.5 are 10 of the 20 scores and 18 of the 19 held-out ones.
    assert found.distance == pytest.approx(18 / 19 - 10 / 20)
    assert (found.images, found.flagged, found.share) == (20, 1, 0.05)  # only 30 is above 18, the largest
    # None would be flagged if the largest of all 39 scores were a held-out one, which has the probability 19/39.
    assert found.flagged_p_value == pytest.approx(20 / 39)
    assert found.p_value == pytest.approx(2 * found.distance_p_value)
    # Clopper and Pearson: k or fewer images, and k or more, have a probability of 2.5 % at the two ends.
    assert stats.binom.cdf(1, 20, found.high) == pytest.approx(0.025)
    assert stats.binom.sf(0, 20, found.low) == pytest.approx(0.025)


def test_flags_can_be_given_and_then_no_rate_is_needed():
    flags = np.arange(40) < 7
    found = drift(np.arange(40), np.arange(40), promised_rate=None, is_anomaly=flags)
    assert (found.flagged, found.promised_rate, found.flagged_p_value) == (7, None, None)
    assert found.p_value == found.distance_p_value == 1.0


@pytest.mark.parametrize("held_out", [1, 19, 300, 1999])
def test_p_values_alone_give_the_same_test(held_out, rng):
    scores, reference = rng.normal(0.3, 1.0, 50), rng.normal(size=held_out)
    ranks, rank_reference = ranks_from(calibration.p_values(reference, scores))
    by_scores = drift(scores, reference)
    if held_out > 1:  # which p-values may not all show
        assert len(rank_reference) == held_out
    by_ranks = drift(ranks, rank_reference)
    assert by_ranks == by_scores


@pytest.mark.parametrize("p_values", [[0.0, 0.5], [0.5, 1.5], [1 / 1999, 1 / 1997]])
def test_p_values_of_no_held_out_images_are_refused(p_values):
    with pytest.raises(UsageError, match=r"not those of at most 1999 held-out images; .* Received: \d"):
        ranks_from(p_values)


def test_holm_corrects_for_the_number_of_tests():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.6]), [1.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros(19), [1.0]), {}, "at least 20 scores and 1 held-out score, all finite. Received: 19 and 1"),
        ((np.zeros(20), []), {}, "Received: 20 and 0"),
        ((np.full(20, np.nan), [1.0]), {}, "20 not finite"),
        ((np.zeros(20), [1.0]), {"promised_rate": 1.0}, "promised_rate must be .* Received: 1.0"),
        ((np.zeros(20), [1.0]), {"promised_rate": None}, "is_anomaly must say"),
        ((np.zeros(20), [1.0]), {"is_anomaly": [True]}, "is_anomaly must be one bool per score"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    with pytest.raises(UsageError, match=message):
        drift(*arguments, **options)
