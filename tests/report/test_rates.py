"""Counts at every position of the slider against all scores, and the axis and curves of the page."""

import numpy as np
import pytest
from sklearn import metrics

from mcl_tf.report import rates

SCORES = {
    "usual": lambda rng: rng.normal(3.0, 1.0, 300),
    "far outliers": lambda rng: np.append(rng.normal(3.0, 1.0, 200), rng.exponential(1e4, 100)),
    "large": lambda rng: rng.normal(1e7, 1e5, 300),
    "small": lambda rng: rng.normal(0.0, 1e-6, 300),
    "ties": lambda rng: rng.integers(0, 4, 300).astype(float),
    "equal": lambda rng: np.full(300, 7.0),
}


@pytest.fixture(params=SCORES)
def case(request, rng):
    """(is_anomaly, scores float32, threshold, axis)."""
    scores = np.float32(SCORES[request.param](rng))
    threshold = float(scores[17])  # a held-out score, as that of a detector
    is_anomaly = np.arange(300) >= 200
    return is_anomaly, scores, threshold, rates.make_axis(is_anomaly, scores, threshold)


def test_counts_are_those_of_all_scores(case):
    is_anomaly, scores, threshold, axis = case
    counted = rates.count_above(is_anomaly, scores, threshold, axis)
    thresholds = np.array(counted["thresholds"])
    assert thresholds[counted["own"]] == threshold
    assert counted["totals"] == [200, 100]
    above = scores.astype(float) > thresholds[:, None]
    assert counted["normal"] == np.sum(above & ~is_anomaly, axis=1).tolist()
    assert counted["anomalous"] == np.sum(above & is_anomaly, axis=1).tolist()
    # From one end, at which all are flagged, to the other; in steps that a person can see.
    assert (counted["normal"][0], counted["anomalous"][0]) == (200, 100)
    assert (counted["normal"][-1], counted["anomalous"][-1]) == (0, 0)
    assert np.all(np.diff(thresholds) >= 0.0)
    assert np.diff(counted["positions"]).max() <= 0.0021
    np.testing.assert_allclose(counted["positions"], axis.positions(thresholds), atol=1e-5)


def test_a_threshold_is_what_is_shown(case):
    counted = rates.count_above(*case)
    for index, value in enumerate(counted["thresholds"]):
        assert index == counted["own"] or float(f"{value:.{counted['decimals']}f}") == value


def test_the_axis_holds_all_scores_and_gives_room_to_the_normal_ones(case):
    is_anomaly, scores, threshold, axis = case
    places = axis.positions(scores)
    assert 0.0 < places.min() <= places.max() < 1.0
    np.testing.assert_allclose(axis.scores(places), scores, rtol=1e-6, atol=1e-9)
    early, late = np.quantile(places[~is_anomaly], (0.05, 0.95))
    assert late - early > 0.04 or np.ptp(scores) == 0.0
    values = rates.ticks(axis)
    assert len(values) >= 2 or np.ptp(scores) == 0.0
    assert np.all((axis.positions(values) >= 0.0) & (axis.positions(values) <= 1.0))


def test_histograms_are_shares_of_each_kind(case):
    is_anomaly, scores, _, axis = case
    normal, anomalous = rates.histograms(is_anomaly, scores, axis)
    assert len(normal) == len(anomalous) == 34  # 2 sqrt(300)
    bins = np.minimum((axis.positions(scores) * 34).astype(int), 33)
    np.testing.assert_allclose(normal, np.bincount(bins[~is_anomaly], minlength=34) / 200, atol=0.011)
    assert (normal.sum(), anomalous.sum()) == pytest.approx((1.0, 1.0))
    assert rates.histograms(np.zeros(300, bool), scores, axis)[1].sum() == 0.0


@pytest.mark.parametrize("count", [40, 20_000])
def test_curves_pass_through_the_operating_points(count, rng):
    """Also with less points than there are images."""
    is_anomaly = rng.random(count) < 0.3
    scores = rng.normal(size=count) + is_anomaly
    axis = rates.make_axis(is_anomaly, scores, 0.5)
    counted = rates.count_above(is_anomaly, scores, 0.5, axis)
    flagged = np.array(counted["normal"]) / counted["totals"][0]
    found = np.array(counted["anomalous"]) / counted["totals"][1]
    curve = rates.roc(is_anomaly, scores)
    assert len(curve) <= 401
    assert metrics.auc(*curve.T) == pytest.approx(metrics.roc_auc_score(is_anomaly, scores), abs=1e-4)
    assert distances(curve, np.stack([flagged, found], axis=1)).max() < 0.004

    curve = rates.precision_recall(is_anomaly, scores)
    assert len(curve) <= 401
    steps = np.stack([np.repeat(curve[:, 0], 2)[:-1], np.repeat(curve[:, 1], 2)[1:]], axis=1)
    some = (flagged > 0) & (found > 0.02)  # the precision of a few images jumps
    precision = np.array(counted["anomalous"])[some] / np.add(counted["anomalous"], counted["normal"])[some]
    assert distances(steps, np.stack([found[some], precision], axis=1)).max() < 0.01


def distances(line, points):
    """Distances of points to the closest part of a line through others."""
    start, way = line[:-1], np.diff(line, axis=0)
    share = np.sum((points[:, None] - start) * way, axis=2) / np.maximum(np.sum(way**2, axis=1), 1e-12)
    closest = start + np.clip(share, 0.0, 1.0)[..., None] * way
    return np.linalg.norm(points[:, None] - closest, axis=2).min(axis=1)
