"""Encoders and projection head: sizes, precision, initial weights and gradients."""

import random

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import ModelConfig
from mcl_tf.embeddings import embedding_network
from mcl_tf.networks import build_encoder, build_projection_head, build_rotation_head

SMALL = ModelConfig(encoder="small", width=0.25, projection_hidden=10, projection_dim=4)


def parameters(name, size=32, width=1.0):
    """Build an encoder; return it and its number of trainable parameters."""
    encoder = build_encoder(ModelConfig(encoder=name, width=width), size)
    return encoder, sum(int(np.prod(w.shape)) for w in encoder.trainable_weights)


@pytest.fixture
def global_policy():
    """A function that sets the global dtype policy until the end of the test."""
    before = tf.keras.mixed_precision.global_policy()
    yield tf.keras.mixed_precision.set_global_policy
    tf.keras.mixed_precision.set_global_policy(before)


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
def test_the_small_encoder_has_any_width_and_image_size(width, dimension, size):
    encoder, _ = parameters("small", size, width)
    assert encoder(tf.zeros((2, size, size, 3))).shape == (2, dimension)


def test_the_projection_head_has_one_hidden_layer():
    head = build_projection_head(ModelConfig(projection_hidden=10, projection_dim=4), 6)
    assert [tuple(w.shape) for w in head.weights] == [(6, 10), (10,), (10, 4), (4,)]


# Precision.


@pytest.mark.parametrize(
    ("dtype", "weights", "outputs"),
    [
        ("float32", "float32", "float32"),
        ("mixed_bfloat16", "float32", "float32"),
        ("mixed_float16", "float32", "float32"),
        ("float64", "float64", "float64"),
    ],
)
def test_weights_and_outputs_have_the_dtypes_of_the_policy(dtype, weights, outputs):
    encoder = build_encoder(SMALL, 16, dtype=dtype)
    head = build_projection_head(SMALL, 16, dtype=dtype)
    embeddings = encoder(tf.zeros((2, 16, 16, 3)))
    assert {tf.as_dtype(w.dtype).name for w in encoder.weights + head.weights} == {weights}
    assert embeddings.dtype == outputs
    assert head(embeddings).dtype == outputs
    convolutions = {layer.compute_dtype for layer in encoder.layers if isinstance(layer, tf.keras.layers.Conv2D)}
    assert convolutions == {dtype.removeprefix("mixed_")}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_the_global_dtype_policy_has_no_effect(policy, global_policy, rng):
    images = rng.uniform(size=(2, 16, 16, 3)).astype(np.float32)

    def project():
        encoder, head = build_encoder(SMALL, 16), build_projection_head(SMALL, 16)
        return head(encoder(images)).numpy()

    expected = project()
    global_policy(policy)
    found = project()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


# Initial weights.


def initial_weights(seed):
    encoder, head = build_encoder(SMALL, 16, seed=seed), build_projection_head(SMALL, 16, seed=seed)
    return encoder.get_weights() + head.get_weights()


def test_initial_weights_follow_from_the_seed_only():
    """Neither from the global generators nor from the layers built before."""
    expected = initial_weights(3)
    for global_seed in (0, 1):
        random.seed(global_seed)
        np.random.seed(global_seed)
        tf.keras.utils.set_random_seed(global_seed)
        for a, b in zip(initial_weights(3), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    kernels = [(a, b) for a, b in zip(initial_weights(4), expected, strict=True) if a.ndim > 1]
    assert all((a != b).mean() > 0.99 for a, b in kernels)


def test_building_networks_leaves_the_global_generators_unchanged():
    def draw():
        return random.random(), np.random.random(), float(tf.random.uniform([]))

    def seed():
        random.seed(0)
        np.random.seed(0)
        tf.random.set_seed(0)

    seed()
    expected = draw()
    seed()
    initial_weights(3)
    assert draw() == expected


def test_layers_of_one_shape_have_different_weights():
    kernels = [w for w in build_encoder(ModelConfig(encoder="resnet18", width=0.125), 16).get_weights() if w.ndim == 4]
    assert len({kernel.shape for kernel in kernels}) < len(kernels)
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


def test_initial_weights_have_the_scale_of_their_initializers():
    # He: standard deviation sqrt(2 / fan_in). Glorot: uniform, standard deviation sqrt(2 / (fan_in + fan_out)).
    encoder = build_encoder(ModelConfig(encoder="resnet18", width=0.5), 16)
    for kernel in (w for w in encoder.get_weights() if w.ndim == 4 and w.size > 10_000):
        assert kernel.std() == pytest.approx(np.sqrt(2.0 / np.prod(kernel.shape[:3])), rel=0.03)
    for kernel in (w for w in build_projection_head(ModelConfig(), 64).get_weights() if w.ndim == 2):
        assert kernel.std() == pytest.approx(np.sqrt(2.0 / np.sum(kernel.shape)), rel=0.03)


# Gradients.


@pytest.mark.parametrize(("name", "channels"), [*(("small", channels) for channels in (1, 3, 8)), ("resnet18", 3)])
def test_gradients_match_those_of_float64(name, channels, rng):
    # With few channels, some kernels of oneDNN would be wrong by half of the gradient, and different in every run.
    config = ModelConfig(encoder=name, width=channels / {"small": 16, "resnet18": 64}[name])
    encoder = build_encoder(config, 16)
    images = rng.uniform(0.0, 1.0, (8, 16, 16, 3))
    first, again = gradients(encoder, images.astype(np.float32)), gradients(encoder, images.astype(np.float32))
    precise = build_encoder(config, 16, dtype="float64")
    precise.set_weights(encoder.get_weights())
    for a, b, expected in zip(first, again, gradients(precise, images), strict=True):
        np.testing.assert_array_equal(b, a)
        np.testing.assert_allclose(a, expected, rtol=0.0, atol=1e-4 * np.abs(expected).max())  # seen: 2e-6


def gradients(encoder, images):
    """Return the gradients of the squared length of the embeddings."""

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(images, training=False) ** 2)
        return tape.gradient(loss, encoder.trainable_variables)

    return [gradient.numpy() for gradient in run()]


@pytest.mark.parametrize(
    "settings", [("float64", "channels_first", "float64"), ("float16", "channels_first", "mixed_bfloat16")]
)
def test_global_settings_of_keras_change_no_network(settings, keras_settings):
    images = tf.random.stateless_uniform([2, 16, 16, 3], [0, 1])

    def outputs():
        encoder = build_encoder(SMALL, 16)
        head = build_projection_head(SMALL, encoder.output_shape[-1])
        stages = embedding_network(encoder, head, "stages")(images)
        rotations = build_rotation_head(encoder.output_shape[-1])(encoder(images))
        return [head(encoder(images)).numpy(), stages.numpy(), rotations.numpy()]

    expected = outputs()
    keras_settings(*settings)
    for found, value in zip(outputs(), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, value)
