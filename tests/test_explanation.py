"""Explanations of every kind of input, at the size of the images, and where a defect is."""

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from tests.helpers import DETECTOR_OPTIONS, tinted_images

SIDES = (30, 20)


@pytest.fixture(scope="module", params=["image", "local", "both"])
def detector(request):
    """A detector without training of each kind of score, on images of a weave."""
    options = {**DETECTOR_OPTIONS, "score": request.param, "image_size": 16, "detail_size": 32}
    return mcl_tf.AnomalyDetector(**options).fit(woven(40))


def woven(count, seed=0, sides=SIDES):
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: sides[0], : sides[1]]
    phases = rng.uniform(0, 6, (2, count, 1, 1))
    waves = np.sin(rows + phases[0]) + np.sin(columns + phases[1])
    images = 128 + 40 * waves + rng.normal(0, 4, (count, *sides))
    return np.repeat(images.round().clip(0, 255).astype(np.uint8)[..., None], 3, -1)


def test_explains_arrays(detector):
    images = woven(3, 1)
    found = detector.explain(images)
    count = detector.scorer_.view_count
    assert found["heat_map"].shape == (3, *SIDES)
    assert found["heat_map"].dtype == np.float32
    assert found["rotation"].shape == found["flipped"].shape == (3, count)
    np.testing.assert_allclose(found["distances"], detector.distances(images), rtol=1e-4)


def test_explains_images_of_several_sizes_like_arrays(detector):
    images, other = woven(2, 1), woven(1, 2, (24, 40))[0]
    expected = detector.explain(images)["heat_map"]
    several = [*images, other]
    form = tf.TensorSpec([None, None, 3], tf.uint8)
    for source in (several, tf.data.Dataset.from_generator(lambda: several, output_signature=form)):
        found = detector.explain(source)["heat_map"]
        assert [each.shape for each in found] == [SIDES, SIDES, (24, 40)]
        np.testing.assert_allclose(found[:2], expected, atol=2e-3)


def test_explains_no_images(detector):
    assert detector.explain(np.zeros((0, *SIDES, 3), np.uint8))["heat_map"].shape == (0, *SIDES)


def test_shows_where_a_defect_is(detector):
    if detector.fitted_config_.scoring.score == "image":
        pytest.skip("an untrained network does not see it")
    images = woven(4, 3)
    images[:, 18:26, 10:18] = 128
    heat = detector.explain(images)["heat_map"]
    inside = heat[:, 18:26, 10:18].mean((1, 2))
    assert (inside > heat.mean((1, 2)) + 1.0).all()


def test_two_classes_have_distances_to_each():
    images, labels = tinted_images(24)
    found = mcl_tf.AnomalyDetector(**DETECTOR_OPTIONS).fit(images, labels).explain(images[:2])
    assert found["distances"].shape == (2, 8, 2)
