"""The differences between the two TensorFlow stacks, as far as no other test depends on them."""

import random

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.training.optimizers import make_optimizer
from mcl_tf.utils import compat

OPTIMIZERS = ("sgd", "lars", "lamb", "adamw")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_current_learning_rate_follows_the_schedule(name):
    schedule = tf.keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    optimizer, variable = make_optimizer(Config().replace(optimizer=name).training, schedule), tf.Variable([1.0])
    compat.build_optimizer(optimizer, [variable])
    assert compat.current_learning_rate(optimizer) == 0.5
    for _ in range(2):
        optimizer.apply_gradients([(tf.constant([1.0]), variable)])
    assert compat.current_learning_rate(optimizer) == 0.25


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_build_creates_all_variables(name):
    """A checkpoint is restored before the first step."""
    optimizer = make_optimizer(Config().replace(optimizer=name).training, 0.1)
    variable = tf.Variable([[1.0, 2.0]])
    compat.build_optimizer(optimizer, [variable])

    def shapes():
        variables = optimizer.variables
        return [tuple(v.shape) for v in (variables() if callable(variables) else variables)]

    built = shapes()
    assert (1, 2) in built
    optimizer.apply_gradients([(tf.constant([[1.0, 1.0]]), variable)])
    assert shapes() == built


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_excluded_variables_do_not_decay(name):
    """Without a gradient, a step consists of the decay alone."""
    kernel, bias = tf.Variable([[1.0, 2.0]], name="kernel"), tf.Variable([1.0, 2.0], name="bias")
    training = Config().replace(optimizer=name, weight_decay=0.5, decay_exclusions=True).training
    optimizer = make_optimizer(training, 0.1, [kernel, bias])
    compat.build_optimizer(optimizer, [kernel, bias])
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in (kernel, bias)])
    np.testing.assert_array_equal(bias, [1.0, 2.0])
    assert np.all(np.abs(kernel.numpy()) < [[1.0, 2.0]])


@pytest.mark.parametrize("fails", [False, True])
def test_the_callers_generators_are_kept(fails):
    def next_weights():
        return tf.keras.initializers.HeNormal()((2, 2)).numpy()  # without a seed of its own

    tf.keras.utils.set_random_seed(3)
    before, expected = random.getstate(), next_weights()
    tf.keras.utils.set_random_seed(3)
    try:
        with compat.generators_kept():
            random.random()
            next_weights()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert random.getstate() == before
    np.testing.assert_array_equal(next_weights(), expected)


def with_random_layers():
    """A model with two layers that draw random numbers, one of them in a model within it."""
    inner = tf.keras.Sequential([tf.keras.layers.Input((64,)), tf.keras.layers.Dropout(0.5)])
    return tf.keras.Sequential([tf.keras.layers.Input((64,)), inner, tf.keras.layers.GaussianNoise(1.0)])


def test_seeded_layers_draw_what_follows_from_the_seed():
    def draws(seed):
        model = with_random_layers()
        compat.seed_layers(model, seed)
        return [model(tf.ones((1, 64)), training=True).numpy() for _ in range(2)]

    first, again, other = draws(1), draws(1), draws(2)
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other[0])


OTHER_SETTINGS = {
    "mixed": ("float32", "channels_last", "mixed_bfloat16"),
    "float64": ("float64", "channels_first", "float64"),
    "float16": ("float16", "channels_first", "mixed_float16"),
}


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_keras_defaults_hold_and_the_settings_of_the_caller_are_restored(name, keras_settings):
    keras_settings(*OTHER_SETTINGS[name])
    assert current_keras_settings() == OTHER_SETTINGS[name]
    with compat.keras_defaults(), compat.keras_defaults():
        assert current_keras_settings() == ("float32", "channels_last", "float32")
        assert tf.keras.layers.Conv2D(1, 1).data_format == "channels_last"
    assert current_keras_settings() == OTHER_SETTINGS[name]
    with pytest.raises(KeyError), compat.keras_defaults():
        raise KeyError
    assert current_keras_settings() == OTHER_SETTINGS[name]


def current_keras_settings():
    backend = tf.keras.backend
    return backend.floatx(), backend.image_data_format(), tf.keras.mixed_precision.global_policy().name


def test_retracing_of_own_functions_is_not_reported(caplog, monkeypatch):
    logger = tf.get_logger()
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("WARNING", logger.name)  # importing tf2onnx raises it
    with compat.without_retracing_warning():
        logger.warning("5 out of the last 9 calls to f triggered tf.function retracing. Tracing is expensive")
        logger.warning("another warning")
    logger.warning("6 out of the last 9 calls to g triggered tf.function retracing. Tracing is expensive")
    assert [record.getMessage()[:9] for record in caplog.records] == ["another w", "6 out of "]
