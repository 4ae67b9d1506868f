"""Stateless random numbers: distribution, seeds, and XLA."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.utils.stateless_random import random_bits, uniform


def test_uniform_numbers_are_uniform():
    # 20 equal shares of 20,000 numbers: chi-square with 19 degrees of freedom exceeds 56 once in 60,000 times.
    found = uniform([20_000], [3, 4]).numpy()
    assert found.dtype == np.float32
    assert found.min() >= 0.0
    assert found.max() < 1.0
    counts = np.bincount((found * 20).astype(int), minlength=20)
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 56.0


def test_random_bits_cover_the_full_range():
    bits = random_bits([20_000], [3, 4]).numpy()
    assert bits.dtype == np.int32
    for bit in range(32):
        share = np.mean(bits >> bit & 1)
        assert share == pytest.approx(0.5, abs=0.02), bit  # more than five standard errors


@pytest.mark.parametrize("draw", [uniform, random_bits])
def test_numbers_depend_on_the_seed_and_their_index_only(draw):
    expected = draw([50], [3, 4]).numpy()
    np.testing.assert_array_equal(draw([50], [3, 4]), expected)
    np.testing.assert_array_equal(draw([5, 4], [3, 4]).numpy().ravel(), expected[:20])
    for other in ([3, 5], [4, 4], [4, 3]):
        assert (draw([50], other).numpy() != expected).all()


@pytest.mark.parametrize("draw", [uniform, random_bits])
def test_xla_draws_the_same_numbers(draw):
    """The floats of tf.random.stateless_uniform differ under XLA (tensorflow#121243)."""
    compiled = tf.function(lambda seed: draw([1000], seed), jit_compile=True, autograph=False)
    np.testing.assert_array_equal(compiled(tf.constant([3, 4], tf.int64)), draw([1000], [3, 4]))


def test_largest_bits_stay_below_one(monkeypatch):
    # Float32 rounds the largest integers to 2^31, which would result in 1.
    ends = tf.constant([-(2**31), -1, 0, 2**31 - 1], tf.int32)
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_, **__: ends)
    found = uniform([4], [0, 0]).numpy()
    np.testing.assert_allclose(found, [0.0, 0.5, 0.5, 1.0], atol=1e-7)
    assert found[0] == 0.0
    assert found[-1] < 1.0
