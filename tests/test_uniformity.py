"""Uniformity against its definition."""

import numpy as np
import pytest

from mcl_tf.uniformity import SAMPLE, uniformity


@pytest.mark.parametrize("count", [2, 4, SAMPLE + 40])
def test_it_is_the_mean_gaussian_potential_of_all_pairs(count, rng):
    z = rng.normal(size=(2, count, 3))
    z /= np.linalg.norm(z, axis=-1, keepdims=True)
    first = z[0, :SAMPLE]
    potentials = [np.exp(-2.0 * np.sum((a - b) ** 2)) for i, a in enumerate(first) for b in first[:i]]
    assert float(uniformity(z.astype(np.float32))) == pytest.approx(np.log(np.mean(potentials)), rel=1e-5)


def test_its_ends_are_equal_and_opposite_projections():
    z = np.zeros((2, 2, 5), np.float32)
    z[:, :, 0] = 1.0
    assert float(uniformity(z)) == pytest.approx(0.0, abs=1e-6)
    z[:, 1, 0] = -1.0
    assert float(uniformity(z)) == pytest.approx(-8.0, abs=1e-5)


def test_a_single_instance_is_finite():
    assert float(uniformity(np.ones((2, 1, 1), np.float32))) == 0.0
