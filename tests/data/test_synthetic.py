"""Synthetic anomalies: their number, their seed, and what they consist of."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.data import synthetic
from mcl_tf.data.synthetic import NAMES, SyntheticSource
from mcl_tf.errors import UsageError

COUNT, SIZE = 7, 16


@pytest.fixture(scope="module")
def normal():
    images = np.random.default_rng(1).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)
    return images, tf.data.Dataset.from_tensor_slices((images, np.zeros(COUNT, np.int64)))


def draw(name, normal, channels=3, seed=0):
    source = SyntheticSource(name, normal[1], channels, seed)
    images = [image for image, label in source.read("test").as_numpy_iterator() if label == 0]
    again = [image for image, _ in source.read("test").as_numpy_iterator()]
    np.testing.assert_array_equal(images, again)
    return np.stack(images)


@pytest.mark.parametrize("name", NAMES)
def test_as_many_as_normal_test_images_up_to_a_limit(name, normal, monkeypatch):
    images = draw(name, normal)
    assert (images.shape, images.dtype) == ((COUNT, SIZE, SIZE, 3), np.uint8)
    assert len(np.unique(images, axis=0)) == COUNT
    assert (images != draw(name, normal, seed=1)).any()
    unknown = normal[0], normal[1].filter(lambda *_: True)  # as of a dataset of which one class is read
    np.testing.assert_array_equal(draw(name, unknown), images)
    monkeypatch.setattr(synthetic, "_LARGEST", 3)
    assert len(draw(name, normal)) == 3


@pytest.mark.parametrize("name", ["uniform", "gaussian", "blobs"])
def test_noise_has_the_channels_of_normal_images(name, normal):
    grey, colour = draw(name, normal, channels=1), draw(name, normal)
    assert (grey == grey[..., :1]).all()
    assert (colour != colour[..., :1]).any()


def test_noise_has_its_distribution(normal):
    """The mean of n pixels has the standard deviation s / sqrt(n); six of them are allowed."""
    tolerance = 6.0 / np.sqrt(COUNT * SIZE * SIZE * 3)
    uniform, gaussian = draw("uniform", normal), draw("gaussian", normal)
    assert uniform.mean() == pytest.approx(127.5, abs=73.9 * tolerance)
    assert (uniform.min(), uniform.max()) == (0, 255)
    assert gaussian.mean() == pytest.approx(127.5, abs=64 * tolerance)
    assert np.mean(np.abs(gaussian - 127.5) < 64) == pytest.approx(0.6827, abs=0.5 * tolerance)
    bright = np.mean(draw("blobs", normal) > 0, axis=(1, 2))
    np.testing.assert_allclose(bright, 0.3, atol=1.0 / SIZE**2)


def test_permuted_images_have_the_pixels_of_normal_ones(normal):
    def pixels(images):
        return np.sort(images.reshape(COUNT, -1, 3).astype(int) @ [65536, 256, 1])

    images = draw("permuted", normal)
    np.testing.assert_array_equal(pixels(images), pixels(normal[0]))
    assert (images != normal[0]).mean() > 0.9


def test_interpolated_images_are_means_of_two_different_ones(normal):
    partners = []
    for first, image in zip(normal[0], draw("interp", normal), strict=True):
        means = np.round(np.mean([np.broadcast_to(first, normal[0].shape), normal[0]], axis=0))
        partners += np.flatnonzero((means == image).all((1, 2, 3))).tolist()
    assert sorted(partners) == list(range(COUNT))
    assert all(index != partner for index, partner in enumerate(partners))


@pytest.mark.parametrize("name", NAMES)
def test_needs_two_normal_test_images(name, normal):
    with pytest.raises(UsageError, match=f"anomaly_dataset {name} needs two normal test images. Received: 1"):
        SyntheticSource(name, normal[1].take(1), 3, 0).read("test")
