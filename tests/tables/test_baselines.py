"""Simple methods beside a table."""

import numpy as np
import pytest

from mcl_tf.config import Config
from mcl_tf.tables import baselines
from mcl_tf.tables.baselines import aurocs, nearest_neighbours, standardized
from tests.helpers import DETECTOR_OPTIONS


def test_nearest_neighbours_are_the_mean_of_the_smallest_distances(rng):
    train, test = rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    distances = np.sort(np.linalg.norm(train - test[:, None], axis=-1), axis=1)
    np.testing.assert_allclose(nearest_neighbours(train, test), distances[:, :5].mean(1))
    few = np.linalg.norm(train[:2] - test[:, None], axis=-1)
    np.testing.assert_allclose(nearest_neighbours(train[:2], test), few.mean(1))


def test_standardized_features_have_the_units_of_the_training_features(rng):
    train, test = standardized(rng.normal(3.0, 5.0, (50, 2)), np.full((1, 2), 3.0))
    np.testing.assert_allclose(train.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(train.std(0), 1.0, rtol=1e-5)
    assert np.abs(test).max() < 1.0


@pytest.mark.parametrize("method", ["knn", "ocsvm", "iforest"])
def test_far_points_have_high_scores(method, rng):
    train, test = rng.normal(size=(60, 4)), np.array([[0.0] * 4, [6.0] * 4])
    near, far = baselines._METHODS[method](train, test, 0)
    assert far > near


def test_all_methods_on_a_zero_against_other_digits():
    """A zero is easily told apart."""
    config = Config().replace(**DETECTOR_OPTIONS, normal=("0",))
    found = aurocs(config)
    assert list(found) == [f"{m}_{f}" for f in ("pixels", "embedding") for m in ("knn", "ocsvm", "iforest")]
    assert found["knn_pixels"] > 0.98
    assert min(found.values()) > 0.6
