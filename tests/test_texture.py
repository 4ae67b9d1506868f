"""The texture descriptor: defects and brightness that it finds, the map of places, and its statistics against NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from mcl_tf import texture
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.texture import PATCH, TextureDescriptor, is_grey

SIZE = 48


def fit(descriptor, images, **options):
    """Fit a descriptor and return the descriptors of the images, float32 [n, dimension]."""
    return np.concatenate(list(descriptor.fit(images, **options)))


def draw_weave(count, seed, size=SIZE, tint=(1.0, 1.0, 1.0)):
    """Draw images of a weave, a periodic pattern with a phase of its own and noise: uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    phases = rng.uniform(0, 2 * np.pi, (count, 2, 1, 1))
    pattern = np.sin(2 * np.pi * rows / 6 + phases[:, 0]) + np.sin(2 * np.pi * columns / 6 + phases[:, 1])
    grey = 120 + 25 * pattern + rng.normal(0, 4, (count, size, size))
    return np.clip(np.round(grey[..., None] * tint), 0, 255).astype(np.uint8)


def with_defects(images, seed, side=3, amount=60):
    """Return images with a brighter square, and the row and column of each square's middle."""
    rng = np.random.default_rng(seed)
    images, places = images.astype(np.int16), rng.integers(8, images.shape[1] - 8, (len(images), 2))
    for image, (row, column) in zip(images, places, strict=True):
        image[row - side // 2 :, column - side // 2 :][:side, :side] += amount
    return np.clip(images, 0, 255).astype(np.uint8), places


@pytest.fixture(scope="module")
def fitted():
    """A descriptor and a Gaussian, both fitted to 80 images."""
    descriptor = TextureDescriptor(SIZE, 1)
    vectors = fit(descriptor, draw_weave(80, 0))
    zeros = np.zeros(80, int)
    batch = (vectors, zeros, zeros)
    return descriptor, ClassConditionalGaussians.fit_batches([batch], num_classes=1, num_rotations=1)


def distances(fitted, images):
    """Return the Mahalanobis distances of images, float32 [n]."""
    descriptor, gaussians = fitted
    return gaussians.distances(descriptor(tf.constant(images)), np.zeros(len(images), int))[:, 0].numpy()


# What it finds.


def test_finds_a_defect_of_three_pixels(fitted):
    defective, _ = with_defects(draw_weave(40, 2), 3)
    scores = np.concatenate([distances(fitted, draw_weave(40, 1)), distances(fitted, defective)])
    assert roc_auc_score(np.arange(80) >= 40, scores) > 0.9


@pytest.mark.parametrize("change", [20, -20])
def test_finds_a_change_of_brightness(change, fitted):
    normal = draw_weave(40, 1)
    changed = np.clip(draw_weave(40, 2).astype(np.int16) + change, 0, 255).astype(np.uint8)
    scores = np.concatenate([distances(fitted, normal), distances(fitted, changed)])
    assert roc_auc_score(np.arange(80) >= 40, scores) > 0.9


def test_finds_a_change_of_colour():
    descriptor = TextureDescriptor(32, 3)
    vectors = fit(descriptor, draw_weave(80, 0, 32, (1.0, 0.8, 0.6)))
    zeros = np.zeros(80, int)
    gaussians = ClassConditionalGaussians.fit_batches([(vectors, zeros, zeros)], num_classes=1, num_rotations=1)
    normal = distances((descriptor, gaussians), draw_weave(20, 1, 32, (1.0, 0.8, 0.6)))
    changed = distances((descriptor, gaussians), draw_weave(20, 2, 32, (0.9, 0.8, 0.7)))
    assert roc_auc_score(np.arange(40) >= 20, np.concatenate([normal, changed])) > 0.9


def test_the_map_is_highest_at_the_defect(fitted):
    images, places = with_defects(draw_weave(20, 4), 5)
    heat = fitted[0].heat_map(tf.constant(images)).numpy()
    assert heat.shape == (20, SIZE, SIZE)
    highest = np.array([np.unravel_index(part.argmax(), part.shape) for part in heat])
    # Patches of 7 pixels and a smoothing of 2 pixels spread a defect; its middle stays the highest place.
    assert np.abs(highest - places).max() <= PATCH // 2


def test_maps_are_standardized_per_place_with_a_share_of_all_places():
    """The statistics of a place are drawn to those of all places as if by 20 images."""
    images = draw_weave(60, 0, 32)
    images[:, :, :16] = images[:, :, :16] // 2 + 60  # the left half has half the contrast
    descriptor = TextureDescriptor(32, 1)
    descriptor.fit(images)
    means, spreads = descriptor.place_means[0].numpy()[..., 0], descriptor.place_spreads[0].numpy()[..., 0]
    standardized = descriptor._squares_and_map(tf.constant(images), 0)[1].numpy()[..., 0]
    assert standardized.shape[1:] == means.shape
    logarithms = np.float64(standardized) * spreads + means
    mean, variance = logarithms.mean(0), logarithms.var(0)
    np.testing.assert_allclose(means, 0.75 * mean + 0.25 * mean.mean(), atol=1e-3)
    np.testing.assert_allclose(spreads, np.sqrt(0.75 * variance + 0.25 * variance.mean()) + 0.001, rtol=1e-3)
    # What is left of the difference of the halves is a quarter.
    left, right = (slice(None), slice(4, 10)), (slice(None), slice(16, 22))
    assert mean[right].mean() - mean[left].mean() > 0.5
    residue = (mean - means)[right].mean() - (mean - means)[left].mean()
    assert residue == pytest.approx(0.25 * (mean[right].mean() - mean[left].mean()), rel=0.01)


# The descriptor.


@pytest.mark.parametrize("channels", [1, 3])
def test_descriptors_of_the_training_images_are_standardized(channels, rng):
    images = draw_weave(30, 0, 32) + rng.integers(0, 9, (30, 32, 32, 3), dtype=np.uint8)
    descriptor = TextureDescriptor(32, channels)
    vectors = fit(descriptor, images)
    # Levels: 4 and 11 percentiles per channel. Two scales have more than 7 pixels, 32 and 8, with 49 components per
    # channel and 4 statistics of the map each.
    assert vectors.shape == (30, channels * 15 + 2 * (channels * 49 + 4))
    assert vectors.shape[1] == descriptor.dimension
    np.testing.assert_allclose(vectors.mean(0), 0.0, atol=1e-2)  # float32 sums of levels up to 5, over their spread
    deviations = vectors.std(0)
    assert (deviations <= 1.0 + 1e-3).all()
    assert np.median(deviations) > 0.98
    # Other batches, other kernels: the differences of descriptors are divided by spreads of down to 0.01.
    np.testing.assert_allclose(descriptor(tf.constant(images)), vectors, atol=0.01)


@pytest.mark.parametrize(("size", "scales"), [(7, []), (8, [1]), (28, [1]), (32, [1, 4]), (128, [1, 4, 16])])
def test_scales_have_more_pixels_than_a_patch(size, scales):
    assert TextureDescriptor(size, 1).scales == scales


@pytest.mark.parametrize("size", [9, 12])
def test_small_images_are_described(size):
    images = draw_weave(20, 0, size)
    descriptor = TextureDescriptor(size, 3)
    vectors = fit(descriptor, images)
    assert np.isfinite(vectors).all()
    assert descriptor.heat_map(tf.constant(images)).shape == (20, size, size)


def test_levels_match_numpy():
    """Mean, log of the standard deviation, percentiles and log of the mean gradients, in units of all images."""
    images = draw_weave(20, 0, 32)
    descriptor = TextureDescriptor(32, 1)
    descriptor.fit(images)
    levels = images[..., :1].astype(np.float64)  # grey: the channels are equal
    # Center and spread come from every 97th pixel of all images.
    sample = images.reshape(-1, 3)[::97, 0].astype(np.float64)
    scaled = (levels - sample.mean()) / sample.std()
    flat = np.sort(scaled.reshape(20, -1), 1)
    expected = [flat.mean(1), np.log(flat.std(1) + 0.01)]
    shares = (0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1)
    expected += [flat[:, round(share * 1023)] for share in shares]
    expected += [np.log(np.abs(np.diff(scaled, axis=axis)).mean((1, 2, 3)) + 0.001) for axis in (1, 2)]
    expected = np.stack(expected, 1)
    found = descriptor(tf.constant(images)).numpy()[:, :15]
    spread = expected.std(0) + 1e-4
    np.testing.assert_allclose(found * spread + expected.mean(0), expected, atol=1e-3)  # float32, spreads up to 0.3


def test_patches_are_whitened():
    """The components of patches of the normal images are uncorrelated with variance 1 at most."""
    images = draw_weave(40, 0, 32)
    descriptor = TextureDescriptor(32, 1)
    descriptor.fit(images)
    x = (images[..., 0].astype(np.float64) - descriptor.center.numpy()) / descriptor.spread.numpy()
    windows = np.lib.stride_tricks.sliding_window_view(x, (PATCH, PATCH), (1, 2)).reshape(-1, PATCH * PATCH)
    components = windows @ np.float64(descriptor.filters[0]).reshape(PATCH * PATCH, -1) + descriptor.biases[0].numpy()
    covariance = np.cov(components, rowvar=False)
    # The covariance comes from a sample of the patches, two out of three of which overlap.
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.1
    assert np.diag(covariance).max() < 1.2
    assert np.median(np.diag(covariance)) > 0.7
    assert np.abs(components.mean(0)).max() < 0.1


@pytest.mark.parametrize("value", [0, 100, 255])
def test_constant_images_are_finite(value):
    images = np.full((20, 32, 32, 3), value, np.uint8)
    descriptor = TextureDescriptor(32, 1)
    assert np.isfinite(fit(descriptor, images)).all()
    other = draw_weave(3, 0, 32)
    assert np.isfinite(descriptor(tf.constant(other))).all()
    assert np.isfinite(descriptor.heat_map(tf.constant(other))).all()


@pytest.mark.parametrize("value", [0, 100, 255])
def test_a_constant_image_among_others_is_finite(value, fitted):
    images = np.full((2, SIZE, SIZE, 3), value, np.uint8)
    assert np.isfinite(distances(fitted, images)).all()
    assert np.isfinite(fitted[0].heat_map(tf.constant(images))).all()
    assert distances(fitted, images).min() > distances(fitted, draw_weave(20, 1)).max()


def test_a_sample_of_many_images_gives_the_statistics(monkeypatch):
    images, descriptor = draw_weave(37, 0, 32), TextureDescriptor(32, 1)
    monkeypatch.setattr(texture, "_IMAGES", 10)
    vectors = fit(descriptor, images)
    np.testing.assert_allclose(vectors, descriptor(tf.constant(images)), atol=1e-2)
    sample = vectors[np.linspace(0, 36, 10).astype(int)]
    np.testing.assert_allclose(sample.mean(0), 0.0, atol=1e-2)
    np.testing.assert_allclose(sample.std(0)[vectors.std(0) > 0.1], 1.0, atol=0.1)


def test_the_fit_is_deterministic_and_depends_on_the_seed_of_the_patches():
    images = draw_weave(100, 0, 32)
    results = []
    for seed, global_seed in ((1, 0), (1, 5), (2, 0)):
        np.random.seed(global_seed)
        tf.random.set_seed(global_seed)
        results.append(fit(TextureDescriptor(32, 1), images, seed=seed))
    np.testing.assert_array_equal(results[1], results[0])
    assert np.abs(results[2] - results[0]).max() > 1e-4


def test_the_batch_size_has_no_effect(fitted):
    images = draw_weave(17, 1, 32)
    ones, many = TextureDescriptor(32, 1), TextureDescriptor(32, 1)
    # Other kernels: the rounding of float32, 1e-7 of levels and logarithms of up to 10, over spreads of down to 0.01.
    np.testing.assert_allclose(fit(many, images, batch_size=16), fit(ones, images, batch_size=1), atol=1e-2)
    images = draw_weave(16, 2)
    together = distances(fitted, images)
    alone = np.concatenate([distances(fitted, images[i : i + 1]) for i in range(16)])
    np.testing.assert_allclose(alone, together, rtol=1e-3)


def test_no_images_have_no_descriptors(fitted):
    descriptor = fitted[0]
    none = tf.zeros([0, SIZE, SIZE, 3], tf.uint8)
    assert descriptor(none).shape == (0, descriptor.dimension)
    assert descriptor.heat_map(none).shape == (0, SIZE, SIZE)


def test_weights_hold_everything_that_is_learned(fitted):
    copy = TextureDescriptor(SIZE, 1)
    copy.set_weights(fitted[0].get_weights())
    images = tf.constant(draw_weave(4, 1))
    np.testing.assert_array_equal(copy(images), fitted[0](images))
    np.testing.assert_array_equal(copy.heat_map(images), fitted[0].heat_map(images))
    assert not copy.trainable_weights


def test_the_global_dtype_policy_has_no_effect(fitted):
    images, before = tf.constant(draw_weave(3, 1)), tf.keras.mixed_precision.global_policy()
    expected = fitted[0](images)
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        copy = TextureDescriptor(SIZE, 1)
        copy.set_weights(fitted[0].get_weights())
        np.testing.assert_array_equal(copy(images), expected)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


# Grey images.


def test_images_with_equal_channels_are_grey():
    assert is_grey(draw_weave(60, 0, 16))


def test_grey_images_with_the_traces_of_jpeg_are_grey(rng):
    images = draw_weave(60, 0, 16)
    traces = images + (rng.random(images.shape) < 0.2)  # a fifth of the values is one level higher
    assert is_grey(traces.astype(np.uint8))


@pytest.mark.parametrize("tint", [(1.0, 0.9, 0.8), (0.5, 1.0, 1.0)])
def test_tinted_images_are_not_grey(tint):
    assert not is_grey(draw_weave(60, 0, 16, tint))


def test_one_coloured_image_of_a_few_makes_them_not_grey():
    images = draw_weave(4, 0, 16)
    images[2, ..., 0] = 255
    assert not is_grey(images)
