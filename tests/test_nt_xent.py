"""NT-Xent, compared with its definition in NumPy, and as the loss of a model."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import blocked_losses, losses, nt_xent, views
from mcl_tf.config import Config
from mcl_tf.replicas import Replicas
from mcl_tf.training.trainer import build_model

MASK = {"alpha": 0.05, "beta": 5.0}  # without effect


def by_definition(x, temperature):
    """Return the loss and its gradient in float64, equation (1) of the paper (arXiv:2002.05709), for x [2, N, D].

    Views stand in one row: view k of instance i is row k N + i.
    """
    x = np.concatenate(np.asarray(x, np.float64))
    length = np.linalg.norm(x, axis=1, keepdims=True)
    z, count = x / length, len(x)
    exponentials = np.exp(z @ z.T / temperature) * (1.0 - np.eye(count))
    positive = np.roll(np.eye(count), count // 2, axis=1)
    shares = exponentials / exponentials.sum(1, keepdims=True)
    loss = -np.log((shares * positive).sum(1)).mean()
    by_cosine = (shares - positive) / (temperature * count)
    to_z = (by_cosine + by_cosine.T) @ z
    gradient = (to_z - (to_z * z).sum(1, keepdims=True) * z) / length
    return loss, gradient.reshape(2, -1, x.shape[1])


def draw(rng, n, dtype=np.float64):
    """Draw projections, of which many point apart, and groups, which have no effect."""
    x = rng.normal(size=(2, n, 6)) * rng.uniform(0.1, 9.0, (2, n, 1))
    return x.astype(dtype), rng.integers(0, 2, n), rng.integers(0, 4, n), np.full(n, -1)


def loss_of(x, groups, per_anchor=nt_xent.anchor_losses, temperature=0.3, **options):
    return losses.contrastive_losses(x, *groups, **MASK, temperature=temperature, per_anchor=per_anchor, **options)[0]


@pytest.mark.parametrize("block_size", [0, 6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_value_and_gradient_are_those_of_the_definition(dtype, block_size, rng):
    x, *groups = draw(rng, 8, dtype)
    per_anchor = nt_xent.anchor_losses
    if block_size:
        blocks = {"block_size": block_size, "per_anchor": per_anchor}
        per_anchor = functools.partial(blocked_losses.anchor_losses, **blocks)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = loss_of(x, groups, per_anchor)
    expected, slopes = by_definition(x, 0.3)
    tolerance = 1e-12 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    np.testing.assert_allclose(tape.gradient(loss, x), slopes, atol=tolerance * np.abs(slopes).max())


def test_the_smallest_temperature_stays_finite(rng):
    x, *groups = draw(rng, 8)
    z = losses.normalize(x)
    cosines = np.einsum("vnd,wmd->vnwm", z, z).reshape(16, 16)
    cosines[np.diag_indices(16)] = -np.inf
    # Differences of cosines are so large in units of the temperature that the largest one alone counts.
    expected = np.mean(cosines.max(1) - np.roll(cosines, 8, axis=1).diagonal()) / 0.001
    np.testing.assert_allclose(loss_of(x, groups, temperature=0.001), expected, rtol=1e-3)


def test_it_is_no_case_of_the_masked_loss(rng):
    """Equal factors give it where all cosines are positive, and only there."""
    x, *groups = draw(rng, 8)
    for projections, equal in ((np.abs(x), True), (x, False)):
        masked = losses.ccm_loss(projections, *groups[:2], alpha=1 / 0.3, beta=1 / 0.3, temperature=0.3)
        assert np.isclose(masked, by_definition(projections, 0.3)[0], rtol=1e-9) == equal


def test_the_anchors_of_replicas_add_up_to_the_global_batch(rng):
    x, *groups = draw(rng, 8)
    parts = [loss_of(x, groups, anchors=tf.range(first, first + 4)) for first in (0, 4)]
    np.testing.assert_allclose(sum(parts), by_definition(x, 0.3)[0], rtol=1e-12)


@pytest.mark.parametrize("block_size", [0, 5])
def test_a_model_trains_with_it(block_size, rng):
    """Four rotations of three images are twelve instances, each the negative of all others."""
    options = {"encoder": "small", "width": 0.25, "projection_hidden": 16, "projection_dim": 8}
    model = build_model(Config().replace(**options, loss="nt_xent", loss_block_size=block_size), 16)
    rotations, labels = views.instances([0, 0, 0])
    projections = rng.normal(size=(24, 8)).astype(np.float32)
    loss, parts = model.contrastive_loss(projections, labels, rotations, 0, Replicas.current())
    expected, _ = by_definition(projections.reshape(2, 12, 8), 0.2)
    np.testing.assert_allclose([loss, parts["ccm"]], expected, rtol=1e-5)
    assert parts["spa"] == 0.0
