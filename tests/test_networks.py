"""Encoders and projection head."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import networks
from mcl_tf.config import ModelConfig
from mcl_tf.networks import build_encoder, build_projection_head
from mcl_tf.normalization import SynchronizedBatchNormalization


def parameters(name, size=32, width=1.0):
    encoder = build_encoder(ModelConfig(encoder=name, width=width), size)
    return encoder, sum(int(np.prod(w.shape)) for w in encoder.trainable_weights)


@pytest.mark.parametrize(
    ("name", "size", "dimension", "count"),
    [
        # ImageNet's ResNet-18 has 11,689,512 parameters, 513,000 of them in its classifier; its 7x7 stem has
        # 9,408 weights, the 3x3 stem 1,728. ResNet-34: 21,797,672. ResNet-50: 25,557,032 with 2,049,000.
        ("resnet18", 96, 512, 11_689_512 - 513_000),
        ("resnet18", 32, 512, 11_689_512 - 513_000 - 9_408 + 1_728),
        ("resnet34", 32, 512, 21_797_672 - 513_000 - 9_408 + 1_728),
        ("resnet50", 96, 2048, 25_557_032 - 2_049_000),
    ],
)
def test_resnets_have_the_published_sizes(name, size, dimension, count):
    encoder, found = parameters(name, size)
    assert encoder.output_shape == (None, dimension)
    assert found == count


@pytest.mark.parametrize(("width", "dimension"), [(0.25, 16), (1.0, 64), (2.0, 128)])
@pytest.mark.parametrize("size", [16, 32, 96])
def test_small_grows_with_width_and_takes_any_size(width, dimension, size):
    encoder, _ = parameters("small", size, width)
    assert encoder(tf.zeros((2, size, size, 3))).shape == (2, dimension)


@pytest.mark.parametrize("name", ["small", "resnet18"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 8, 12])
def test_gradients_are_those_of_float64(name, channels, rng, monkeypatch):
    """Some kernels of oneDNN are wrong for few channels, by half of the gradient, and otherwise in every run."""
    # Only convolutions may err so; the fused normalisation has no float64.
    monkeypatch.setattr(networks, "SynchronizedBatchNormalization", lambda: tf.keras.layers.Activation("linear"))
    config = ModelConfig(encoder=name, width=channels / {"small": 16, "resnet18": 64}[name])
    encoder = build_encoder(config, 16)
    images = rng.uniform(0.0, 1.0, (8, 16, 16, 3))
    first, again = gradients(encoder, images.astype(np.float32)), gradients(encoder, images.astype(np.float32))
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float64")
    try:
        precise = build_encoder(config, 16)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    precise.set_weights(encoder.get_weights())
    for a, b, expected in zip(first, again, gradients(precise, images), strict=True):
        np.testing.assert_array_equal(b, a)
        np.testing.assert_allclose(a, expected, rtol=0.0, atol=1e-4 * np.abs(expected).max())  # seen: 2e-6


def gradients(encoder, images):
    """Of the squared length of the embeddings, by weight."""

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(images, training=False) ** 2)
        return tape.gradient(loss, encoder.trainable_variables)

    return [gradient.numpy() for gradient in run()]


def test_the_projection_head_has_one_hidden_layer():
    head = build_projection_head(ModelConfig(projection_hidden=10, projection_dim=4), 6)
    assert [tuple(w.shape) for w in head.weights] == [(6, 10), (10,), (10, 4), (4,)]


def test_batch_normalisation_is_that_of_the_formula(rng):
    x = rng.normal(3.0, 2.0, (5, 4, 4, 2)).astype(np.float32)
    layer = SynchronizedBatchNormalization(momentum=0.8)
    y = layer(tf.constant(x), training=True)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), atol=1e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.8 + 0.2 * x.var((0, 1, 2), ddof=1), rtol=1e-5)
    moved = (x - 0.2 * mean) / np.sqrt(layer.moving_variance.numpy() + 1e-5)
    np.testing.assert_allclose(layer(tf.constant(x), training=False), moved, atol=1e-4)


def test_batch_normalisation_keeps_a_low_precision_but_not_in_its_moments(rng):
    x = tf.constant(rng.normal(300.0, 1.0, (8, 4, 4, 1)), tf.bfloat16)
    layer = SynchronizedBatchNormalization()
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16
    assert layer.moving_mean.dtype in ("float32", tf.float32)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * tf.reduce_mean(tf.cast(x, tf.float32)), rtol=1e-4)
