"""Embeddings: channel statistics against NumPy, the stages of several kinds of encoders, the limit of dimensions."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import embeddings, networks, pretrained
from mcl_tf.config import ModelConfig
from mcl_tf.embeddings import StageStatistics, embedding_network, stage_maps

layers = tf.keras.layers


def shapes(maps):
    """Return the sides and channels of symbolic maps."""
    return [tuple(features.shape[1:]) for features in maps]


def residual(name, size, **options):
    return networks.build_encoder(ModelConfig(encoder=name, width=0.25, **options), size)


def foreign_encoder(size=32):
    """Build a functional encoder whose maps have the sides 32, 16, 16, 8, 10, 3 and 1."""
    inputs = layers.Input((size, size, 3))
    x = layers.Conv2D(5, 3, padding="same", name="full")(inputs)
    x = layers.Conv2D(6, 3, 2, padding="same")(x)
    x = layers.Conv2D(7, 3, padding="same", name="half")(x)
    x = layers.Conv2D(8, 3, 2, padding="same", name="quarter")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    padded = layers.ZeroPadding2D(1)(layers.Multiply(name="gated")([x, gate]))
    outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(9, 4, 3)(padded))
    return tf.keras.Model(inputs, outputs)


# Channel statistics.


def statistics_by_hand(maps, with_deviation):
    """Return the normalized means and standard deviations of every map, one after the other, in float64."""
    parts = []
    for features, deviation in zip(maps, with_deviation, strict=True):
        features = np.asarray(features, np.float64)
        parts.append(features.mean((1, 2)))
        if deviation:
            parts.append(np.sqrt(features.var((1, 2)) + 1e-6))
    return np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], 1)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("with_deviation", [(True, True), (False, True), (False, False)])
def test_statistics_match_numpy(with_deviation, dtype, rng):
    maps = [rng.normal(2.0, 3.0, (5, side, side, width)).astype(dtype) for side, width in ((8, 3), (3, 4))]
    layer = StageStatistics(with_deviation)
    found = layer([tf.constant(features) for features in maps])
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, statistics_by_hand(maps, with_deviation), atol=1e-6)  # of unit vectors
    assert layer.compute_output_shape([features.shape for features in maps]) == found.shape


def test_constant_maps_have_finite_statistics_and_gradients():
    maps = tf.Variable(tf.fill((2, 4, 4, 3), 0.5))
    with tf.GradientTape() as tape:
        found = StageStatistics([True])([maps])
        loss = tf.reduce_sum(found * tf.range(6.0))
    np.testing.assert_allclose(found, np.full((2, 6), 3**-0.5), atol=1e-6)
    assert np.isfinite(tape.gradient(loss, maps)).all()


def test_maps_of_zeros_are_finite():
    assert np.isfinite(StageStatistics([True])([tf.zeros((2, 4, 4, 3))])).all()


def test_config_round_trip():
    layer = StageStatistics([True, False], name="joined")
    copy = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert isinstance(copy, StageStatistics)
    assert (copy.with_deviation, copy.name, copy.compute_dtype) == ([True, False], "joined", "float32")


def test_the_global_dtype_policy_has_no_effect(rng):
    maps, before = [tf.constant(rng.normal(size=(2, 4, 4, 3)), tf.float32)], tf.keras.mixed_precision.global_policy()
    expected = StageStatistics([True])(maps)
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        np.testing.assert_array_equal(StageStatistics([True])(maps), expected)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


# Stages.


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # A quarter of the channels 16 or 64. The stem halves the sides of the small encoders from 32 pixels on; from 96
        # pixels on, 7x7 with stride 2 and pooling quarter them. The first stage keeps the sides, except in `small`.
        ("small", 16, [(16, 16, 4), (8, 8, 4), (4, 4, 8), (2, 2, 16)]),
        ("small", 32, [(16, 16, 4), (8, 8, 4), (4, 4, 8), (2, 2, 16)]),
        ("compact", 32, [(16, 16, 4), (16, 16, 4), (8, 8, 8), (4, 4, 16)]),
        ("resnet18", 16, [(16, 16, 16), (16, 16, 16), (8, 8, 32), (4, 4, 64), (2, 2, 128)]),
        ("resnet18", 96, [(24, 24, 16), (24, 24, 16), (12, 12, 32), (6, 6, 64), (3, 3, 128)]),
        ("resnet50", 16, [(16, 16, 16), (16, 16, 64), (8, 8, 128), (4, 4, 256), (2, 2, 512)]),
    ],
)
def test_stages_of_our_encoders(name, size, expected):
    assert shapes(stage_maps(residual(name, size))) == expected


def test_stages_of_other_encoders_are_the_last_maps_of_halved_sides():
    encoder = foreign_encoder()
    found = stage_maps(encoder)
    assert shapes(found) == [(32, 32, 5), (16, 16, 7), (8, 8, 8)]
    # The gated map is the last one of 8 x 8 pixels, not the convolution before it.
    inputs = np.random.default_rng(0).random((1, 32, 32, 3), np.float32)
    wanted = [encoder.get_layer(name).output for name in ("full", "half", "gated")]
    for a, b in zip(*(tf.keras.Model(encoder.inputs[0], maps)(inputs) for maps in (found, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sides_that_are_not_a_power_of_two_are_rounded_up():
    inputs = layers.Input((25, 25, 3))
    x = layers.Conv2D(4, 3, 2, padding="same")(inputs)  # 13
    x = layers.Conv2D(5, 3, 2, padding="same")(x)  # 7
    encoder = tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    assert shapes(stage_maps(encoder)) == [(13, 13, 4), (7, 7, 5)]


def test_prepared_images_are_no_stage():
    inputs = layers.Input((16, 16, 3))
    x = layers.Rescaling(2.0)(inputs)
    x = layers.Conv2D(4, 3, 2, padding="same")(x)
    encoder = tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    assert shapes(stage_maps(encoder)) == [(8, 8, 4)]


def test_stages_of_an_encoder_from_a_file(tmp_path):
    """The file knows no sides; the loaded encoder does."""
    inputs = layers.Input((None, None, 3))
    x = layers.Conv2D(4, 3, 2, padding="same")(inputs)
    x = layers.Conv2D(6, 3, 2, padding="same")(x)
    tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x)).save(tmp_path / "encoder.keras")
    encoder = pretrained.load_encoder(str(tmp_path / "encoder.keras"), 24)
    assert shapes(stage_maps(encoder)) == [(12, 12, 4), (6, 6, 6)]
    assert embedding_network(encoder, None, "stages").output_shape == (None, 20)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_an_encoder_with_a_model_inside_has_an_embedding(kind, tmp_path):
    """Keras' transfer learning guides build such encoders."""
    base = foreign_encoder(24)
    inputs = layers.Input((24, 24, 3))
    scaled = layers.Rescaling(2.0)
    if kind == "functional":
        model = tf.keras.Model(inputs, base(scaled(inputs)))
    else:
        model = tf.keras.Sequential([inputs, scaled, base])
    model.save(tmp_path / "encoder.keras")
    encoder = pretrained.load_encoder(str(tmp_path / "encoder.keras"), 24)
    images = np.random.default_rng(0).random((2, 24, 24, 3), np.float32)
    network = embedding_network(encoder, None, "stages")
    found = network(images)
    assert network.output_shape == (None, found.shape[-1])
    assert np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() > 1e-6


# The network as a whole.


@pytest.mark.parametrize("kind", ["stages", "encoder", "projection"])
def test_embeddings_of_every_kind(kind, rng):
    encoder = residual("small", 16)
    head = networks.build_projection_head(ModelConfig(projection_hidden=8, projection_dim=5), 16)
    images = rng.random((3, 16, 16, 3), np.float32)
    network = embedding_network(encoder, head, kind)
    if kind == "stages":
        maps = tf.keras.Model(encoder.inputs[0], stage_maps(encoder))(images)
        expected = statistics_by_hand(maps, [True] * 4)
        assert expected.shape == (3, 2 * (4 + 4 + 8 + 16))
    else:
        expected = encoder(images)
        expected = head(expected) if kind == "projection" else expected
    np.testing.assert_allclose(network(images), expected, atol=1e-6)
    assert network.output_shape == (None, expected.shape[-1])
    assert network.input_shape == (None, 16, 16, 3)


def test_the_network_shares_the_weights_of_the_encoder(rng):
    encoder, images = residual("small", 16), rng.random((2, 16, 16, 3), np.float32)
    network = embedding_network(encoder, None, "stages")
    before = network(images).numpy()
    kernel = encoder.trainable_weights[0]
    kernel.assign(2.0 * kernel + 0.1)
    assert np.abs(network(images) - before).max() > 1e-3


def test_an_encoder_without_feature_maps_gives_its_output(rng):
    inputs = layers.Input((8, 8, 3))
    encoder = tf.keras.Model(inputs, layers.Dense(4)(layers.Flatten()(inputs)))
    assert embedding_network(encoder, None, "stages") is encoder


def wide_encoder(*widths, size=128):
    """Build an encoder with maps of the given numbers of channels."""
    x = inputs = layers.Input((size, size, 3))
    for width in widths:
        x = layers.Conv2D(width, 1, 2, kernel_initializer="zeros")(x)
    return tf.keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


@pytest.mark.parametrize(
    ("widths", "with_deviation"),
    [
        ((1000, 1048), [True, True]),  # 2 * 2048 is the limit
        ((1000, 1049), [True, False]),  # 2049 means and 1000 deviations, and 1049 more would exceed it
        ((1049, 1000), [False, True]),  # the widest stage loses its deviations, wherever it is
        ((4000, 49), [False, False]),  # 4049 means and 47 dimensions left
        ((4000, 48), [False, True]),
        ((9, 512, 1024, 2048), [True, False, False]),  # of the last three stages: 3584 means and 512 deviations
    ],
)
def test_an_embedding_has_4096_dimensions_at_most(widths, with_deviation):
    network = embedding_network(wide_encoder(*widths), None, "stages")
    assert network.layers[-1].with_deviation == with_deviation
    counted = widths[-len(with_deviation) :]
    expected = sum(width * (1 + deviation) for width, deviation in zip(counted, with_deviation, strict=True))
    assert network.output_shape == (None, expected)
    assert expected <= embeddings.MAX_DIMENSION


def test_a_network_of_stages_survives_save_and_load(tmp_path, rng):
    network, images = embedding_network(residual("small", 16), None, "stages"), rng.random((2, 16, 16, 3), np.float32)
    network.save(tmp_path / "network.keras")
    loaded = tf.keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(images), network(images))


@pytest.mark.parametrize(("size", "with_deviation"), [(32, [True, True]), (16, [True, True]), (12, [True, False])])
def test_deviations_over_few_places_of_an_encoder_from_elsewhere_are_left_out(size, with_deviation):
    """The maps have 8 x 8, 4 x 4 and 3 x 3 places at the end."""
    network = embedding_network(wide_encoder(5, 6, size=size), None, "stages")
    assert network.layers[-1].with_deviation == with_deviation
