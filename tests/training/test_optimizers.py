"""Optimizers: their formulas against NumPy and Keras, the choice by name, and the learning rate schedule."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.training import optimizers
from mcl_tf.utils import compat


def take_steps(optimizer, start, gradients):
    """Return the value of a variable after one step per gradient."""
    variable = tf.Variable(start, dtype=tf.float32)
    compat.build_optimizer(optimizer, [variable])
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient, tf.float32), variable)])
    return variable.numpy()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)])
def test_fused_step_equals_that_of_keras(rng, momentum, nesterov):
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


def test_lars_takes_plain_steps_for_biases_and_normalization(rng):
    w, gradients = rng.normal(size=4), rng.normal(size=(3, 4))
    lars = take_steps(optimizers.LARS(0.1, 0.9, l2=0.5), w, gradients)
    np.testing.assert_allclose(lars, take_steps(tf.keras.optimizers.SGD(0.1, 0.9), w, gradients), rtol=1e-5)


@pytest.mark.parametrize(("start", "gradient"), [(0.0, 1.0), (1.0, 0.0)])
def test_lars_takes_a_plain_step_if_a_norm_is_zero(start, gradient):
    found = take_steps(optimizers.LARS(0.1, 0.0), np.full((2, 2), start), [np.full((2, 2), gradient)])
    np.testing.assert_allclose(found, start - 0.1 * gradient * np.ones((2, 2)), rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "lars", "lamb", "adamw"])
def test_optimizers_minimize_a_quadratic(name):
    config = Config().replace(optimizer=name).training
    optimizer = optimizers.make_optimizer(config, 20.0 if name == "lars" else 0.02)
    variable = tf.Variable([[1.0, -2.0], [3.0, 0.5]])
    compat.build_optimizer(optimizer, [variable])
    for _ in range(30):
        optimizer.apply_gradients([(2.0 * variable, variable)])
    assert np.sum(np.square(variable.numpy())) < 14.25 * 0.8  # 1 + 4 + 9 + 0.25 at the start


@pytest.mark.parametrize(("name", "rate"), [("sgd", 0.3), ("lars", 0.3), ("lamb", 0.005), ("adamw", 0.001)])
def test_default_learning_rate_is_that_of_the_optimizer(name, rate):
    assert optimizers.peak_learning_rate(Config().replace(optimizer=name).training) == rate
    assert optimizers.peak_learning_rate(Config().replace(optimizer=name, learning_rate=0.25).training) == 0.25


def test_missing_lamb_names_the_extra_to_install(monkeypatch):
    monkeypatch.delattr(tf.keras.optimizers, "Lamb", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    with pytest.raises(UsageError, match=r"mcl_tf\[addons\]"):
        optimizers.make_optimizer(Config().replace(optimizer="lamb").training, 0.1)


def test_lamb_comes_from_addons_if_keras_has_none():
    tfa = pytest.importorskip("tensorflow_addons", reason="TensorFlow Addons is on the other stack")
    found = optimizers.make_optimizer(Config().replace(optimizer="lamb").training, 0.1)
    assert isinstance(found, tfa.optimizers.LAMB)


def test_warm_up_rises_linearly_to_the_peak_of_the_cosine():
    config = Config().replace(warmup_epochs=2.5, learning_rate=0.3, final_learning_rate=0.01).training
    schedule = optimizers.make_schedule(config, 64, total_steps=100, steps_per_epoch=4)
    found = [float(schedule(step)) for step in range(101)]
    # 64 images per step: the peak is 0.3. Ten steps rise, 90 steps of a cosine fall from 0.3 to 0.003.
    expected = [0.03 * step for step in range(10)]
    expected += [0.003 + 0.297 * 0.5 * (1 + np.cos(np.pi * step / 90)) for step in range(91)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)  # float32 rounding


def test_schedule_has_no_warm_up_by_default():
    schedule = optimizers.make_schedule(Config().training, 64, total_steps=100, steps_per_epoch=4)
    assert float(schedule(0)) == pytest.approx(0.3)


@pytest.mark.parametrize(("batch_size", "peak"), [(64, 0.3), (128, 0.6), (16, 0.075)])
def test_peak_is_proportional_to_the_batch_size(batch_size, peak):
    schedule = optimizers.make_schedule(Config().training, batch_size, total_steps=100)
    assert float(schedule(0)) == pytest.approx(peak)
    assert float(schedule(100)) == pytest.approx(5e-4 * peak)


@pytest.mark.parametrize("rise", [0, 2])
def test_the_schedule_is_float32_whatever_keras_computes_in(rise, keras_settings):
    training = Config().replace(warmup_steps=rise, learning_rate=0.1).training
    expected = [float(optimizers.make_schedule(training, 64, 10)(step)) for step in range(10)]
    keras_settings("float16", "channels_last", "float32")
    rates = [optimizers.make_schedule(training, 64, 10)(step) for step in range(10)]
    assert {tf.as_dtype(rate.dtype) for rate in rates} == {tf.float32}
    assert [float(rate) for rate in rates] == expected
