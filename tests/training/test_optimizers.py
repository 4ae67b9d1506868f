"""Optimisers: their formulas, worked out by hand or by Keras' own code, and the registry."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.training import optimizers
from mcl_tf.utils import compat


def take_steps(optimizer, start, gradients):
    """The variable after a step for each gradient."""
    variable = tf.Variable(start, dtype=tf.float32)
    compat.build_optimizer(optimizer, [variable])
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    return variable.numpy()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_the_fused_step_is_that_of_keras(rng, momentum, nesterov):
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
    schedule = tf.keras.optimizers.schedules.CosineDecay(0.5, 5)
    ours = take_steps(optimizers.MomentumSGD(schedule, momentum, nesterov=nesterov), start, gradients)
    keras = take_steps(tf.keras.optimizers.SGD(schedule, momentum, nesterov=nesterov), start, gradients)
    np.testing.assert_allclose(ours, keras, rtol=1e-6, atol=1e-6)  # float32 rounding


def test_lars_follows_its_formula(rng):
    """m <- mu m - lr trust (g + l2 w), trust = eta |w| / |g + l2 w|;  w <- w + m."""
    w, gradients = rng.normal(size=(3, 4)), rng.normal(size=(3, 3, 4))
    found = take_steps(optimizers.LARS(2.0, 0.9, l2=0.1, trust_coefficient=0.01), w, gradients)
    m = np.zeros_like(w)
    for g in gradients:
        g = g + 0.1 * w
        m = 0.9 * m - 2.0 * 0.01 * np.linalg.norm(w) / np.linalg.norm(g) * g
        w = w + m
    np.testing.assert_allclose(found, w, rtol=1e-5)


def test_lars_leaves_biases_and_normalisation_alone(rng):
    w, gradients = rng.normal(size=4), rng.normal(size=(3, 4))
    lars = take_steps(optimizers.LARS(0.1, 0.9, l2=0.5), w, gradients)
    np.testing.assert_allclose(lars, take_steps(tf.keras.optimizers.SGD(0.1, 0.9), w, gradients), rtol=1e-5)


@pytest.mark.parametrize(("start", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_lars_takes_a_plain_step_where_a_norm_is_zero(start, gradient):
    found = take_steps(optimizers.LARS(0.1, 0.0), np.full((2, 2), start), [np.full((2, 2), gradient)])
    np.testing.assert_allclose(found, start - 0.1 * gradient * np.ones((2, 2)), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb", "adamw"])
def test_every_optimiser_lowers_a_quadratic(name):
    config = Config().replace(optimizer=name).training
    optimizer = optimizers.make_optimizer(config, 20.0 if name == "lars" else 0.02)
    variable = tf.Variable([[1.0, -2.0], [3.0, 0.5]])
    compat.build_optimizer(optimizer, [variable])
    for _ in range(30):
        optimizer.apply_gradients([(2.0 * variable, variable)])
    assert np.sum(np.square(variable.numpy())) < 14.25 * 0.8  # 1 + 4 + 9 + 0.25 at the start


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.3), ("lars", 0.3), ("lamb", 0.005), ("adamw", 0.001)])
def test_an_unset_learning_rate_is_the_optimisers_own(name, rate):
    assert optimizers.peak_learning_rate(Config().replace(optimizer=name).training) == rate
    assert optimizers.peak_learning_rate(Config().replace(optimizer=name, learning_rate=0.25).training) == 0.25


def test_lamb_without_a_source_names_the_extra(monkeypatch):
    monkeypatch.delattr(tf.keras.optimizers, "Lamb", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "tensorflow_addons", None)
    with pytest.raises(UsageError, match=r"mcl_tf\[addons\]"):
        optimizers.make_optimizer(Config().replace(optimizer="lamb").training, 0.1)


def test_lamb_comes_from_addons_where_keras_has_none():
    tfa = pytest.importorskip("tensorflow_addons", reason="TensorFlow Addons is on the other stack")
    found = optimizers.make_optimizer(Config().replace(optimizer="lamb").training, 0.1)
    assert isinstance(found, tfa.optimizers.LAMB)
