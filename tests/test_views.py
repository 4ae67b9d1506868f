"""Preparation, rotations and views, compared with NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import RESIZES


def draw_images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Preparation.


@pytest.fixture(scope="module")
def prepare_any():
    """`prepare` to 12 pixels in a graph that knows neither the number nor the size of the images."""
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
    return tf.function(lambda x: views.prepare(x, 12), input_signature=signature, autograph=False)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(12, 12), (5, 5), (12, 7), (30, 24)])
def test_prepare_returns_square_uint8_images(size, channels):
    found = views.prepare(draw_images((2, *size, channels)), 12)
    assert found.shape == (2, 12, 12, 3)
    assert found.dtype == tf.uint8


def test_prepare_keeps_images_of_the_right_size(prepare_any):
    x = draw_images((3, 12, 12, 3))
    np.testing.assert_array_equal(views.prepare(x, 12), x)
    np.testing.assert_array_equal(prepare_any(x), x)  # the size is known at run time only


@pytest.mark.parametrize("size", [(5, 5), (12, 7), (30, 24)])
def test_prepare_is_idempotent_and_the_same_in_a_graph(prepare_any, size):
    x = draw_images((3, *size, 3))
    once = views.prepare(x, 12).numpy()
    np.testing.assert_array_equal(prepare_any(x), once)
    np.testing.assert_array_equal(views.prepare(once, 12), once)
    np.testing.assert_array_equal(prepare_any(once), once)


def test_prepare_repeats_grey_and_drops_alpha():
    x = draw_images((2, 9, 9, 4))
    np.testing.assert_array_equal(views.prepare(x, 9), x[..., :3])
    np.testing.assert_array_equal(views.prepare(x, 5), views.prepare(x[..., :3], 5))
    np.testing.assert_array_equal(views.prepare(x[..., :1], 9), np.repeat(x[..., :1], 3, axis=-1))
    small = views.prepare(x[..., :1], 5).numpy()
    np.testing.assert_array_equal(small, np.repeat(small[..., :1], 3, axis=-1))
    np.testing.assert_array_equal(small[..., 0], views.prepare(x[..., :3], 5).numpy()[..., 0])


def test_prepare_enlarges_bilinearly():
    # From two pixels to four: centres 1/4, 3/4, 5/4, 7/4 between 1/2 and 3/2. The inner ones mix 3 : 1, the outer ones
    # repeat the edge.
    row = np.array([0, 100], np.uint8)
    found = views.prepare(np.tile(row[None, None, :, None], (1, 2, 1, 3)), 4)
    np.testing.assert_array_equal(found[0, :, :, 0], np.tile([0, 25, 75, 100], (4, 1)))


def test_prepare_reduces_with_antialiasing():
    # From four pixels to two: a triangle of half-width 2 around 1 weights the centres 1/2, 3/2, 5/2 by 3/4, 3/4, 1/4,
    # divided by 7/4. Pixels 0, 0, 210, 210 give 210 * (1/4) / (7/4) = 30 and, mirrored, 180. Without antialiasing they
    # would give 0 and 210.
    row = np.array([0, 0, 210, 210], np.uint8)
    found = views.prepare(np.tile(row[None, None, :, None], (1, 4, 1, 3)), 2)
    np.testing.assert_array_equal(found[0, :, :, 0], [[30, 180]] * 2)


def test_prepare_rounds_to_the_nearest_integer():
    # From two pixels, 10 and 13, to four: 10, 10.75, 12.25, 13.
    row = np.array([10, 13], np.uint8)
    found = views.prepare(np.tile(row[None, None, :, None], (1, 2, 1, 3)), 4)
    np.testing.assert_array_equal(found[0, 0, :, 0], [10, 11, 12, 13])


def test_prepare_does_not_keep_the_aspect_ratio():
    # All columns of a wide image are in the result, in order.
    wide = np.tile(np.repeat(np.array([10, 90, 170, 250], np.uint8), 4)[None, None, :, None], (1, 8, 1, 3))
    found = views.prepare(wide, 8).numpy()[0, 0, :, 0].astype(int)
    assert found[0] == 10
    assert found[-1] == 250
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("sides", [(19, 19), (19, 40), (7, 19)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_prepare_equals_resizing_if_the_size_is_known_at_run_time_only(channels, sides, rng):
    # The graph skips resizing to the same size.
    images = tf.constant(rng.integers(0, 256, (2, *sides, channels), dtype=np.uint8))
    prepare = tf.function(
        lambda x: views.prepare(x, 19), input_signature=[tf.TensorSpec([None, None, None, channels], tf.uint8)]
    )
    resized = tf.round(tf.image.resize(images[..., :3], (19, 19), antialias=True))
    expected = np.broadcast_to(resized, (2, 19, 19, 3)).astype(np.uint8)
    np.testing.assert_array_equal(prepare(images), expected)
    np.testing.assert_array_equal(views.prepare(images, 19), expected)


def test_to_float_maps_uint8_to_0_to_1():
    found = views.to_float(np.array([[[0, 51, 255]]], np.uint8))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, [[[0.0, 0.2, 1.0]]], rtol=1e-6)


# Rotations and views.


@pytest.mark.parametrize("k", range(4))
@pytest.mark.parametrize("size", [1, 4, 5])
def test_rotations_match_numpy(size, k):
    x = draw_images((2, size, size, 3))
    np.testing.assert_array_equal(views.self_ensemble_views(x, 4)[k::4], np.rot90(x, k, axes=(1, 2)))


def test_rotations_are_counter_clockwise():
    # The right column of the image becomes the top row.
    x = np.array([[1, 2], [3, 4]])[None, :, :, None]
    np.testing.assert_array_equal(views.self_ensemble_views(x, 4)[1, :, :, 0], [[2, 4], [1, 3]])


def test_the_four_rotations_of_an_image_are_consecutive():
    x = draw_images((3, 5, 5, 2))
    found = views.self_ensemble_views(x, 4)
    assert found.shape == (12, 5, 5, 2)
    for i in range(3):
        for k in range(4):
            np.testing.assert_array_equal(found[4 * i + k], np.rot90(x[i], k))


EXPECTED_VIEWS = {
    8: [(k, flipped) for k in range(4) for flipped in (False, True)],
    4: [(k, False) for k in range(4)],
    1: [(0, False)],
}


@pytest.mark.parametrize("count", [8, 4, 1])
def test_self_ensemble_views_match_the_paper(count):
    x = draw_images((3, 5, 5, 3))
    found = views.self_ensemble_views(x, count)
    assert found.shape == (3 * count, 5, 5, 3)
    expected = EXPECTED_VIEWS[count]
    for i in range(3):
        for v, (k, flipped) in enumerate(expected):
            upright = np.fliplr(x[i]) if flipped else x[i]
            np.testing.assert_array_equal(found[count * i + v], np.rot90(upright, k))
    assert views.view_rotations(count) == [k for k, _ in expected]
    assert views.view_flips(count) == [flipped for _, flipped in expected]


def test_the_default_is_eight_different_views():
    x = draw_images((1, 4, 4, 3))
    found = views.self_ensemble_views(x).numpy()
    np.testing.assert_array_equal(found, views.self_ensemble_views(x, 8))
    assert len({view.tobytes() for view in found}) == 8
    assert views.view_rotations() == views.view_rotations(8)


@pytest.mark.parametrize("count", [8, 4, 1])
def test_views_of_a_batch_of_unknown_size(count):
    signature = [tf.TensorSpec([None, 4, 4, 3], tf.float32)]
    traced = tf.function(lambda x: views.self_ensemble_views(x, count), input_signature=signature, autograph=False)
    for n in (0, 1, 3):
        x = draw_images((n, 4, 4, 3)).astype(np.float32)
        np.testing.assert_array_equal(traced(x), views.self_ensemble_views(x, count))


def test_instances_of_an_image_are_consecutive():
    rotations, labels = views.instances(np.array([7, 5], np.int64))
    np.testing.assert_array_equal(rotations, [0, 1, 2, 3, 0, 1, 2, 3])
    np.testing.assert_array_equal(labels, [7, 7, 7, 7, 5, 5, 5, 5])
    assert rotations.dtype == labels.dtype == tf.int32


def test_without_rotations_an_image_is_one_instance():
    rotations, labels = views.instances([7, 5], 1)
    np.testing.assert_array_equal(rotations, [0, 0])
    np.testing.assert_array_equal(labels, [7, 5])


@pytest.mark.parametrize("sides", [(40, 20), (20, 40), (7, 61), (1, 9), (16, 16)])
def test_pad_keeps_the_aspect_ratio_and_mirrors_beyond_the_edges(sides):
    image = draw_images((1, *sides, 3))
    found = views.prepare(image, 16, "pad").numpy()[0]
    (row, column), (height, width) = (part.numpy() for part in views.place_in_square(tf.constant(sides), 16, "pad"))
    assert max(height, width) == 16
    assert (height, width) == tuple(max(1, round(16 * side / max(sides))) for side in sides)
    content = tf.round(tf.image.resize(image, (height, width), antialias=True))[0].numpy()
    np.testing.assert_array_equal(found[row : row + height, column : column + width], content)
    padding = [(row, 16 - row - height), (column, 16 - column - width), (0, 0)]
    np.testing.assert_array_equal(found, np.pad(content, padding, "symmetric"))


@pytest.mark.parametrize("sides", [(40, 20), (20, 40), (7, 61), (16, 16)])
def test_crop_takes_the_central_square(sides):
    image, side = draw_images((1, *sides, 3)), min(sides)
    row, column = ((extent - side) // 2 for extent in sides)
    square = image[:, row : row + side, column : column + side]
    np.testing.assert_array_equal(views.prepare(image, 16, "crop"), views.prepare(square, 16))


@pytest.mark.parametrize("resize", RESIZES)
def test_all_ways_of_resizing_work_on_images_of_unknown_size(resize):
    specification = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
    in_graph = tf.function(lambda x: views.prepare(x, 12, resize), input_signature=specification)
    for sides in ((12, 12), (30, 9), (5, 12)):
        image = draw_images((2, *sides, 3))
        np.testing.assert_array_equal(in_graph(image), views.prepare(image, 12, resize))


# The centre.


def test_the_centre_is_enlarged_bilinearly(rng):
    """The 8 of 16 pixels that have a quarter of the area, resized with the centres of pixels in place."""
    images = rng.random((2, 16, 16, 3), np.float32)
    enlarged = views.central(images, 0.25).numpy()
    places = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    low, part = np.floor(places).astype(int), places % 1
    high = np.minimum(low + 1, 7)
    weights = np.zeros((16, 8), np.float32)
    np.add.at(weights, (range(16), low), 1 - part)
    np.add.at(weights, (range(16), high), part)
    expected = np.einsum("ih,jw,nhwc->nijc", weights, weights, images[:, 4:12, 4:12])
    np.testing.assert_allclose(enlarged, expected, atol=1e-6)  # float32 values up to 1, added in another order


@pytest.mark.parametrize(("area", "side"), [(1.0, 32), (0.98, 32), (0.56, 24), (0.0001, 1)])
def test_the_side_of_the_centre_is_rounded(area, side, rng):
    images = rng.random((1, 32, 32, 3), np.float32)
    first = (32 - side) // 2
    expected = tf.image.resize(images[:, first : first + side, first : first + side], [32, 32])
    np.testing.assert_array_equal(views.central(images, area), expected)
