"""Normalization of images, and batch normalization over the global batch, compared with formulas and Keras' layer."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.normalization import ImageStandardization, SynchronizedBatchNormalization

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}


def draw(rng, dtype="float32"):
    return rng.normal(3.0, 2.0, (6, 4, 4, 2)).astype(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_outputs_and_moving_statistics_match_the_formula(dtype, rng):
    x, tolerance = draw(rng, dtype), TOLERANCES[dtype]
    layer = SynchronizedBatchNormalization(momentum=0.8, dtype=dtype)
    y = layer(tf.constant(x), training=True)
    assert y.dtype == dtype
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 1e-5), atol=tolerance)
    np.testing.assert_allclose(layer.moving_mean, 0.2 * mean, rtol=tolerance)
    np.testing.assert_allclose(layer.moving_variance, 0.8 + 0.2 * x.var((0, 1, 2), ddof=1), rtol=tolerance)
    expected = (x - 0.2 * mean) / np.sqrt(np.asarray(layer.moving_variance) + 1e-5)
    np.testing.assert_allclose(layer(tf.constant(x), training=False), expected, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_match_keras(training, dtype, rng):
    x, weights = tf.constant(draw(rng, dtype)), rng.normal(size=(6, 4, 4, 2))
    results = []
    for kind in (SynchronizedBatchNormalization, tf.keras.layers.BatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5, dtype=dtype)
        layer.build(x.shape)
        layer.set_weights(np.array([[1.5, 0.5], [0.1, -0.2], [2.5, 3.5], [3.0, 5.0]]))  # gamma, beta, mean, variance
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * tf.cast(weights, dtype))
        results.append([y, *tape.gradient(loss, [x, *layer.trainable_variables])])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=10 * TOLERANCES[dtype])


def test_low_precision_inputs_keep_their_dtype_and_float32_statistics(rng):
    x = tf.constant(rng.normal(300.0, 1.0, (8, 4, 4, 1)), tf.bfloat16)
    layer = SynchronizedBatchNormalization()
    y = layer(x, training=True)
    assert y.dtype == tf.bfloat16
    assert layer.moving_mean.dtype in ("float32", tf.float32)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * tf.reduce_mean(tf.cast(x, tf.float32)), rtol=1e-4)


def test_a_frozen_layer_uses_its_moving_statistics(rng):
    x = tf.constant(draw(rng))
    layer = SynchronizedBatchNormalization()
    layer.build(x.shape)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(layer.moving_mean, [0.0, 0.0])


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_two_replicas_normalize_by_the_global_batch(dtype, rng, two_replicas):
    x, weights, tolerance = draw(rng, dtype), rng.normal(size=(6, 4, 4, 2)).astype(dtype), TOLERANCES[dtype]

    def build():
        layer = SynchronizedBatchNormalization(dtype=dtype)
        layer.build(x.shape)
        layer.set_weights(np.array([[1.5, 0.5], [0.1, -0.2], [2.5, 3.5], [3.0, 5.0]]))  # gamma, beta, mean, variance
        return layer

    def apply(layer, images, weights):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(tf.square(outputs) * weights)
        return outputs, *tape.gradient(loss, [images, layer.gamma, layer.beta])

    def share(values):
        return two_replicas.experimental_distribute_values_from_function(
            lambda context: tf.constant(values[3 * context.replica_id_in_sync_group :][:3])
        )

    one = build()
    expected = apply(one, tf.constant(x), tf.constant(weights))
    with two_replicas.scope():
        two = build()
    by_replica = two_replicas.run(tf.function(lambda *parts: apply(two, *parts)), [share(x), share(weights)])
    outputs, to_x, to_gamma, to_beta = map(two_replicas.experimental_local_results, by_replica)
    found = tf.concat(outputs, 0), tf.concat(to_x, 0), sum(to_gamma), sum(to_beta)
    np.testing.assert_allclose(found[0], expected[0], atol=tolerance)
    for value, exact in zip(found[1:], expected[1:], strict=True):
        # Sums over 96 values, of a size of about 10, in another order.
        np.testing.assert_allclose(value, exact, atol=10 * tolerance)
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(
            tf.convert_to_tensor(getattr(two, name)), tf.convert_to_tensor(getattr(one, name)), rtol=tolerance
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_two_replicas_take_inputs_of_low_precision(dtype, rng, two_replicas):
    x, weights = (tf.constant(rng.normal(size=(6, 4, 4, 2)), dtype) for _ in range(2))
    with two_replicas.scope():
        layer = SynchronizedBatchNormalization()
        layer.build(x.shape)

    def gradient(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(layer(images, training=True) * weights)
        return tape.gradient(loss, images)

    # Two replicas with the same images have the moments of one.
    results = two_replicas.experimental_local_results(two_replicas.run(tf.function(gradient), [x]))
    assert results[0].dtype == dtype
    expected = gradient(x)
    np.testing.assert_allclose(*(tf.cast(value, tf.float32) for value in (results[0], expected)), atol=0.05)


def test_config_of_batch_normalization_round_trip():
    layer = SynchronizedBatchNormalization(momentum=0.7, epsilon=1e-3, dtype="float64", name="norm")
    copy = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert isinstance(copy, SynchronizedBatchNormalization)
    assert (copy.momentum, copy.epsilon, copy.compute_dtype, copy.name) == (0.7, 1e-3, "float64", "norm")


# Images.


def standardize(images, mean=0.0, deviation=1.0):
    """Return the standardized images by definition, in float64; 0.001 is added to the contrast."""
    images = np.asarray(images, np.float64)
    spread = images.std((1, 2, 3), keepdims=True) + 1e-3
    return (images - images.mean((1, 2, 3), keepdims=True)) / spread * deviation + mean


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("arguments", [{}, {"mean": 0.45, "deviation": 0.225}], ids=["default", "photograph"])
@pytest.mark.parametrize("contrast", [1.0, 0.01])
def test_standardized_images_match_numpy(contrast, arguments, dtype, rng):
    images = 0.3 + contrast * (rng.random((3, 7, 5, 3)) - 0.3)
    found = ImageStandardization(**arguments, dtype=dtype)(tf.constant(images, dtype))
    assert found.dtype == dtype
    # A small contrast magnifies the rounding of the input.
    np.testing.assert_allclose(found, standardize(images, **arguments), atol=TOLERANCES[dtype] / contrast)


def test_standardized_images_have_the_wanted_mean_and_contrast(rng):
    images = tf.constant(rng.random((4, 9, 9, 3)), tf.float32)
    found = ImageStandardization(0.45, 0.225)(images).numpy()
    np.testing.assert_allclose(found.mean((1, 2, 3)), 0.45, atol=1e-5)
    # The contrast of the input, 0.29, is larger than 0.001 by a factor of 290.
    np.testing.assert_allclose(found.std((1, 2, 3)), 0.225, rtol=0.005)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images_stay_constant_and_finite(value):
    found = ImageStandardization(0.45, 0.225)(tf.fill((2, 4, 4, 3), value))
    np.testing.assert_allclose(found, 0.45, atol=1e-4)  # rounding of 3e-8, magnified by 225
    assert np.ptp(found) == 0.0


def test_images_do_not_affect_each_other(rng):
    images = tf.constant(rng.random((4, 6, 6, 3)), tf.float32)
    layer = ImageStandardization()
    for i in range(4):
        np.testing.assert_array_equal(layer(images)[i], layer(images[i : i + 1])[0])


def test_brightness_and_contrast_have_no_effect(rng):
    images = tf.constant(rng.random((3, 8, 8, 3)), tf.float32)
    layer = ImageStandardization()
    # The 0.001 added to a contrast of 0.29 and of 0.14 differs by 0.4 %, of values of about 2.
    np.testing.assert_allclose(layer(0.5 * images + 0.2), layer(images), atol=0.02)


def test_the_global_dtype_policy_has_no_effect_on_a_layer_with_a_dtype(rng):
    images, before = tf.constant(rng.random((2, 6, 6, 3)), tf.float32), tf.keras.mixed_precision.global_policy()
    expected = ImageStandardization(dtype="float32")(images)
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        found = ImageStandardization(dtype="float32")(images)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_config_of_standardization_round_trip(dtype, rng):
    layer = ImageStandardization(0.4, 0.2, dtype=dtype, name="contrast")
    copy = tf.keras.layers.deserialize(tf.keras.layers.serialize(layer))
    assert isinstance(copy, ImageStandardization)
    assert (copy.mean, copy.deviation, copy.compute_dtype, copy.name) == (0.4, 0.2, dtype, "contrast")
    images = tf.constant(rng.random((2, 6, 6, 3)), dtype)
    np.testing.assert_array_equal(copy(images), layer(images))
