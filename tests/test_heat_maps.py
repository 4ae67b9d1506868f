"""Maps at the size of the images, in words, and as pictures."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import heat_maps, views
from mcl_tf.config import RESIZES

SIZE = 24


def bright_square(sides, row, column, radius=4):
    """A black image with a white square."""
    image = np.zeros((*sides, 3), np.uint8)
    image[row - radius : row + radius, column - radius : column + radius] = 255
    return image


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("sides", [(40, 40), (60, 30), (24, 70), (12, 9)])
def test_a_map_returns_to_where_it_came_from(resize, sides):
    row, column = sides[0] // 2 + 1, sides[1] // 2 - 1
    image = bright_square(sides, row, column, 3)
    prepared = views.prepare(image[None], SIZE, resize)
    heat = tf.cast(prepared[..., 0], tf.float32)
    found = heat_maps.at_own_size(heat, sides, resize).numpy()[0]
    assert found.shape == sides
    center = np.array(np.nonzero(found > 0.5 * found.max())).mean(1)
    # The half-way contour is that of the square, up to a pixel of the smaller picture.
    assert np.abs(center - [row - 0.5, column - 0.5]).max() <= max(1.0, max(sides) / SIZE)


def test_what_was_cut_off_has_the_lowest_value():
    heat = tf.constant(np.random.default_rng(0).normal(size=(2, SIZE, SIZE)), tf.float32)
    found = heat_maps.at_own_size(heat, (SIZE, 2 * SIZE), "crop").numpy()
    np.testing.assert_array_equal(found[:, :, SIZE // 2 : -SIZE // 2], heat)
    assert (found[:, :, : SIZE // 2] == heat.numpy().min()).all()


@pytest.mark.parametrize("resize", RESIZES)
def test_no_images(resize):
    assert heat_maps.at_own_size(tf.zeros([0, SIZE, SIZE]), (30, 20), resize).shape == (0, 30, 20)


@pytest.mark.parametrize(
    ("row", "column", "words"),
    [
        (8, 8, "upper left, 1 % of the image"),
        (8, 40, "upper center, 1 % of the image"),
        (40, 40, "center, 1 % of the image"),
        (40, 72, "middle right, 1 % of the image"),
        (72, 72, "lower right, 1 % of the image"),
    ],
)
def test_says_where(row, column, words):
    assert heat_maps.place_of(bright_square((80, 80), row, column)[..., 0]) == words


def test_says_how_large_a_place_is():
    assert heat_maps.place_of(bright_square((80, 80), 40, 40, 2)[..., 0]) == "center, less than 1 % of the image"
    assert heat_maps.place_of(bright_square((80, 80), 40, 40, 20)[..., 0]) == "center, 25 % of the image"
    assert heat_maps.place_of(np.ones((8, 9))) == "the whole image"


def test_the_colours_of_heat_by_hand():
    image = np.full((1, 3, 3), 100, np.uint8)
    found = heat_maps.overlay(image, np.array([[-5.0, 2.0, 9.0]]), (2.0, 4.0))
    # The last colour of "inferno" is (252, 255, 164), and three quarters of the way from grey 100 lead there.
    np.testing.assert_array_equal(found[0, :2], np.full((2, 3), 100))
    np.testing.assert_allclose(found[0, 2], 100 + 0.75 * (np.array([252, 255, 164]) - 100), atol=1)


def test_a_gradient_shows_where_a_score_comes_from():
    gradient = np.zeros((2, 32, 32, 3), np.float32)
    gradient[0, 8:16, 16:24] = np.random.default_rng(0).normal(size=(8, 8, 3))
    gradient[1, 0, 0, 0] = np.nan
    found = heat_maps.from_gradient(tf.constant(gradient)).numpy()
    assert np.isfinite(found).all()
    inside = found[0, 8:16, 16:24].mean()
    assert inside > 3.0 > found[0, 24:, :].max()  # in standard deviations over the image
