"""The interval of the AUROC: against all pairs, scikit-learn, a bootstrap and its promise."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mcl_tf.auroc import auroc_interval


def by_all_pairs(anomalous, normal):
    """AUROC and DeLong's standard error from the matrix of all pairs, in O(m n)."""
    wins = np.sign(np.subtract.outer(anomalous, normal)) / 2 + 0.5
    parts = wins.mean(1), wins.mean(0)
    return wins.mean(), np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))


def standard_error(area, low, high):
    """Standard error of the AUROC in an interval."""
    logits = np.log(np.array([low, high]) / (1 - np.array([low, high])))
    assert logits.mean() == pytest.approx(np.log(area / (1 - area)))
    return np.ptp(logits) / 2 / 1.959964 * area * (1 - area)


@pytest.mark.parametrize(("m", "n", "decimals"), [(2, 2, 6), (30, 7, 6), (7, 30, 1), (40, 50, 0)])
def test_the_fast_form_is_that_of_all_pairs(m, n, decimals, rng):
    """Rounding makes ties."""
    anomalous, normal = np.round(rng.normal(0.7, 1.0, m), decimals), np.round(rng.normal(0.0, 1.0, n), decimals)
    area, error = by_all_pairs(anomalous, normal)
    found = auroc_interval(anomalous.astype(np.float32), normal.astype(np.float32))
    assert found[0] == pytest.approx(area)
    assert found[0] == pytest.approx(roc_auc_score([1] * m + [0] * n, [*anomalous, *normal]))
    assert standard_error(*found) == pytest.approx(error)


def test_the_error_is_that_of_a_bootstrap(rng):
    anomalous, normal = rng.normal(1.2, 1.5, 80), rng.exponential(1.0, 120)
    areas = [auroc_interval(rng.choice(anomalous, 80), rng.choice(normal, 120))[0] for _ in range(2000)]
    # The standard deviation of 2,000 draws is known to 1.6 %. A bootstrap's own is smaller by 1 in 2 m and 2 n.
    assert standard_error(*auroc_interval(anomalous, normal)) == pytest.approx(np.std(areas), rel=0.06)


@pytest.mark.parametrize(("m", "n", "shift"), [(20, 20, 3.3), (50, 100, 1.8), (20, 200, 0.0)])
def test_the_interval_keeps_its_promise(m, n, shift, rng):
    """Also where many samples have groups that do not overlap."""
    expected = 0.5 * (1 + math.erf(shift / 2))
    found = [auroc_interval(rng.normal(shift, 1, m), rng.normal(0, 1, n)) for _ in range(1000)]
    assert 0.91 <= np.mean([low <= expected <= high for _, low, high in found]) <= 0.99


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_groups_that_do_not_overlap_have_an_interval(sign):
    # 10 independent pairs are all in order with a probability of 2.5 % if one is with the lower end.
    found = auroc_interval(sign * np.arange(10, 50), sign * np.arange(10))
    end = 0.025**0.1
    assert found == pytest.approx((1.0, end, 1.0) if sign > 0 else (0.0, 0.0, 1.0 - end))


def test_equal_scores_have_the_area_one_half():
    assert auroc_interval(np.ones(5), np.ones(3)) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize(("m", "n"), [(1, 40), (40, 1)])
def test_a_single_image_says_nothing(m, n):
    assert auroc_interval(np.arange(m) + 0.5, np.arange(n))[1:] == (0.0, 1.0)
