"""The losses in blocks, compared with the dense losses, whose values test_losses.py checks."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import blocked_losses, losses


def draw(n, classes, seed=0, dtype=np.float32):
    """Draw a problem: normalized projections, labels, rotations and partners."""
    rng = np.random.default_rng(seed)
    z = losses.normalize((rng.normal(size=(2, n, 8)) + rng.normal(size=8)).astype(dtype))
    labels, rotations = tf.constant(rng.integers(0, classes, n)), tf.constant(rng.integers(0, 4, n))
    return z, labels, rotations, losses.sample_partners(labels, rotations, [seed, 1])


def value_and_gradient(z, weights, compute):
    """Return both losses and the gradient of their weighted sum."""
    with tf.GradientTape() as tape:
        tape.watch(z)
        ccm, spa = compute(z)
        total = tf.reduce_sum(weights[0] * ccm) + tf.reduce_sum(weights[1] * spa)
    return ccm, spa, tape.gradient(total, z)


MODES = ("eager", "graph", "xla")
# Cosines in float32 are off by 4e-7, which exponents of 5 magnify to 1e-5; exponents of 100 magnify it a hundredfold.
CASES = [("float32", (0.05, 5.0, 0.2), mode, 1e-5) for mode in MODES]
CASES += [("float32", (0.05, 100.0, 0.01), "eager", 1e-4)]
CASES += [("float64", (0.05, 100.0, 0.01), "graph", 1e-12)]


@pytest.mark.parametrize(("n", "block_size"), [(1, 1), (24, 10), (13, 3)])
@pytest.mark.parametrize(("dtype", "factors", "mode", "tolerance"), CASES)
def test_blocks_give_the_values_and_gradients_of_the_dense_losses(n, block_size, dtype, factors, mode, tolerance):
    z, *groups = draw(n, 3, dtype=dtype)
    weights = tf.constant(np.random.default_rng(1).normal(size=(2, 2, n)), dtype)
    mask = dict(zip(("alpha", "beta", "temperature"), factors, strict=True))
    expected = value_and_gradient(z, weights, lambda z: losses.anchor_losses(z, *groups, **mask))

    def in_blocks(z):
        compute = lambda z: blocked_losses.anchor_losses(z, *groups, **mask, block_size=block_size)  # noqa: E731
        return value_and_gradient(z, weights, compute)

    if mode != "eager":
        in_blocks = tf.function(in_blocks, jit_compile=mode == "xla")
    for a, b in zip(expected, in_blocks(z), strict=True):
        assert a.shape == b.shape
        assert b.dtype == dtype
        np.testing.assert_allclose(b, a, atol=tolerance * max(np.abs(a).max(), 1.0))


def test_blocks_of_some_anchors():
    z, *groups = draw(12, 2)
    mask = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2}
    whole = losses.anchor_losses(z, *groups, **mask)
    rows = tf.range(3, 10)
    found = blocked_losses.anchor_losses(z, *groups, **mask, anchors=rows, block_size=4)
    for a, b in zip(whole, found, strict=True):
        np.testing.assert_allclose(b, tf.gather(a, rows, axis=1), rtol=1e-5, atol=1e-5)
