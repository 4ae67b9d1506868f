"""The losses in blocks against the dense ones, whose own values are tested elsewhere."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import blocked_losses, losses


def draw(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    z = losses.normalize(rng.normal(size=(2, n, 8)) + rng.normal(size=8))
    labels, rotations = tf.constant(rng.integers(0, classes, n)), tf.constant(rng.integers(0, 4, n))
    return z, labels, rotations, losses.sample_partners(labels, rotations, [seed, 1])


def value_and_gradient(z, weights, compute):
    with tf.GradientTape() as tape:
        tape.watch(z)
        ccm, spa = compute(z)
        total = tf.reduce_sum(weights[0] * ccm) + tf.reduce_sum(weights[1] * spa)
    return ccm.numpy(), spa.numpy(), tape.gradient(total, z).numpy()


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize(("n", "block_size"), [(1, 1), (7, 4), (24, 10), (24, 48), (5, 1000), (13, 3)])
@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(0.05, 5.0, 0.2), (0.05, 100.0, 0.01)])
def test_blocks_give_the_dense_value_and_gradient(n, block_size, alpha, beta, temperature, mode):
    z, *facts = draw(n, 3)
    weights = tf.constant(np.random.default_rng(1).normal(size=(2, 2, n)), tf.float32)
    mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
    expected = value_and_gradient(z, weights, lambda z: losses.anchor_losses(z, *facts, **mask))
    compute = lambda z: blocked_losses.anchor_losses(z, *facts, **mask, block_size=block_size)  # noqa: E731
    if mode != "eager":
        compute = tf.function(compute, jit_compile=mode == "xla")
    found = value_and_gradient(z, weights, compute)
    for a, b in zip(expected, found, strict=True):
        assert a.shape == b.shape
        # 1e-5 of the largest; exponents of 100 magnify the rounding of cosines by as much.
        np.testing.assert_allclose(b, a, atol=1e-5 * max(1.0, beta / 10) * max(np.abs(a).max(), 1.0))


def test_blocks_of_a_replica_s_anchors():
    z, *facts = draw(12, 2)
    mask = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2}
    whole = losses.anchor_losses(z, *facts, **mask)
    rows = tf.range(3, 10)
    found = blocked_losses.anchor_losses(z, *facts, **mask, anchors=rows, block_size=4)
    for a, b in zip(whole, found, strict=True):
        np.testing.assert_allclose(b, tf.gather(a, rows, axis=1), rtol=1e-5, atol=1e-5)
