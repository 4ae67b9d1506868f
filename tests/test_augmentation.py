"""The augmentation, compared with slow references that process single images and pixels."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import augmentation as aug
from mcl_tf import views
from mcl_tf.config import AugmentationConfig

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
OFF = AugmentationConfig(flip_probability=0.0, jitter_probability=0.0, grey_probability=0.0)
TOTAL = 12  # number of instances in the global batch


def draw_images(n, size=8, seed=0):
    return np.random.default_rng(seed).random((n, size, size, 3), np.float32)


def to_rows(images, rotations=None):
    """Return images [n, s, s, 3] as rows, channels, columns, transposed for odd rotations, as `turn_and_crop` needs."""
    if rotations is not None:
        odd = (np.asarray(rotations) % 2 == 1)[:, None, None, None]
        images = np.where(odd, np.swapaxes(images, 1, 2), images)
    return tf.transpose(images, (0, 1, 3, 2))


def draw(n, seed=0, **fixed):
    """Draw random numbers as `augment` does and set some of them by the names of their indices."""
    draws = np.random.default_rng(seed).random((n, aug._DRAWS), np.float32)
    for name, value in fixed.items():
        draws[:, getattr(aug, f"_{name.upper()}")] = value
    return draws


def with_whole_crop(draws):
    """Set the first crop to the whole image: the largest area, the middle of the aspects."""
    draws[:, aug._CROP] = 1.0
    draws[:, aug._CROP + aug._TRIES] = 0.5
    return draws


def test_every_random_number_is_used_once():
    uses = [[aug._FLIP], [aug._LEFT], [aug._TOP], [aug._JITTER], [aug._GREY]]
    uses += [range(aug._FACTORS, aug._FACTORS + 4), range(aug._ORDER, aug._ORDER + 4)]
    uses += [range(aug._CROP, aug._CROP + 2 * aug._TRIES)]
    assert sorted(itertools.chain(*uses)) == list(range(aug._DRAWS))


# Flip and crop.


def slow_crop(image, rotation, draws, config):
    """Flip one image, then interpolate every pixel of the crop between four others."""
    if draws[aug._FLIP] < config.flip_probability:
        image = np.flipud(image) if rotation % 2 else np.fliplr(image)
    size, windows = len(image), []
    for attempt in range(aug._TRIES):
        area = config.crop_min_area + draws[aug._CROP + attempt] * (1.0 - config.crop_min_area)
        aspect = (4 / 3) ** (2.0 * draws[aug._CROP + aug._TRIES + attempt] - 1.0)  # log-uniform from 3/4 to 4/3
        windows.append((math.sqrt(area * aspect), math.sqrt(area / aspect)))
    fitting = [window for window in windows if max(window) <= 1.0]
    wide, high = (min(1.0, side) * size for side in (fitting or windows)[0])

    def between(target, window, offset):
        """Return the two pixels around the centre of a target pixel and the share of the second."""
        inside = min(max((target + 0.5) * window / size - 0.5, 0.0), window - 1.0)
        position = inside + offset * (size - window)
        low = min(int(position), size - 1)
        return low, min(low + 1, size - 1), position - low

    result = np.zeros(image.shape)
    for i in range(size):
        top, bottom, down = between(i, high, draws[aug._TOP])
        for j in range(size):
            left, right, across = between(j, wide, draws[aug._LEFT])
            upper = (1 - across) * image[top, left] + across * image[top, right]
            lower = (1 - across) * image[bottom, left] + across * image[bottom, right]
            result[i, j] = (1 - down) * upper + down * lower
    return result


@pytest.mark.parametrize(
    ("min_area", "flips"),
    [(0.08, 0.5), (0.5, 1.0), (0.9, 0.0), (1.0, 0.5)],  # with area 1, hardly any crop fits
)
def test_turn_and_crop_matches_a_loop_over_pixels(min_area, flips):
    config = AugmentationConfig(crop_min_area=min_area, flip_probability=flips)
    images, draws, rotations = draw_images(16), draw(16, seed=1), np.arange(16, dtype=np.int32) % 4
    found = tf.transpose(aug.turn_and_crop(to_rows(images, rotations), rotations, draws, config), (0, 1, 3, 2))
    expected = [
        slow_crop(np.rot90(image, rotation).astype(np.float64), rotation, numbers.astype(np.float64), config)
        for image, rotation, numbers in zip(images, rotations, draws, strict=True)
    ]
    # Positions up to 8 in float32 are off by up to 1e-6, colours by this times a difference of at most 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rotation", range(4))
def test_flips_are_left_right_in_the_upright_image(rotation):
    x = draw_images(3)
    config = AugmentationConfig(flip_probability=1.0)
    draws = with_whole_crop(draw(3, seed=2))
    rotations = np.full(3, rotation, np.int32)
    found = aug.turn_and_crop(to_rows(x, rotations), rotations, draws, config)
    expected = np.rot90(x[:, :, ::-1], rotation, axes=(1, 2))
    np.testing.assert_allclose(tf.transpose(found, (0, 1, 3, 2)), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "window", "start"), [(8, 4, 0), (8, 5, 3), (9, 2, 4), (6, 6, 0), (8, 1, 7)])
@pytest.mark.parametrize("flip", [False, True])
def test_resampling_of_whole_pixels_crops_and_resizes(size, window, start, flip):
    # TensorFlow's bilinear resize of the window also repeats the edge.
    offset = start / (size - window) if size > window else 0.4
    matrix = aug._resampling(size, tf.constant([window / size]), tf.constant([offset], tf.float32), tf.constant([flip]))
    row = np.random.default_rng(3).random(size, np.float32)
    crop = (row[::-1] if flip else row)[start : start + window]
    expected = tf.image.resize(crop[None, :, None], (1, size))[0, :, 0]
    np.testing.assert_allclose(matrix[0] @ row[:, None], expected[:, None], atol=1e-5)


@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, 0.999])
def test_resampling_keeps_a_constant_image(fraction, offset):
    matrix = aug._resampling(10, tf.constant([fraction]), tf.constant([offset]), tf.constant([False]))
    np.testing.assert_allclose(tf.reduce_sum(matrix, -1), np.ones((1, 10)), atol=1e-5)
    assert (matrix.numpy() >= 0).all()


def test_resampling_of_less_than_a_pixel_keeps_a_constant_image():
    # With 8 pixels and the smallest crop_min_area, 0.01, the side of a crop is 0.8 pixels.
    matrix = aug._resampling(8, tf.constant([0.1]), tf.constant([0.999]), tf.constant([False]))
    np.testing.assert_allclose(tf.reduce_sum(matrix, -1), np.ones((1, 8)), atol=1e-5)


def test_crops_have_the_documented_areas_and_aspects(monkeypatch):
    sides, resampling = [], aug._resampling

    def record(size, fraction, offset, flip):
        sides.append(np.array(fraction, np.float64))
        assert ((offset >= 0) & (offset < 1)).all()
        return resampling(size, fraction, offset, flip)

    monkeypatch.setattr(aug, "_resampling", record)
    aug.turn_and_crop(to_rows(draw_images(2000, 2)), tf.zeros(2000, tf.int32), draw(2000, seed=4), AugmentationConfig())
    high, wide = sides
    area, aspect = wide * high, wide / high
    assert 0.08 - 1e-6 < area.min() < 0.1
    assert 0.95 < area.max() < 1.0 + 1e-6
    assert 3 / 4 - 1e-6 < aspect.min() < 0.77
    assert 1.3 < aspect.max() < 4 / 3 + 1e-6
    assert abs(np.log(aspect).mean()) < 0.02  # spread 0.166: five standard errors of 2000
    # A crop of area a > 3/4 fits with probability -ln(a) / ln(4/3), so that (0.67 + 0.119) / 0.92 = 0.858 of all draws
    # fit. The lower half of the range has 0.5 / 0.858 = 0.583 of them. Five standard errors of 2000 are 0.056.
    assert np.mean(area < 0.08 + 0.46) == pytest.approx(0.583, abs=0.056)


# Colours.


def slow_jitter(image, draws, config):
    """Process one image: jitter in the drawn order without clipping, then greyscale, then clip."""
    x = image.astype(np.float64)

    def grey():
        return (x @ LUMA)[..., None]

    if draws[aug._JITTER] < config.jitter_probability:
        spread = 2.0 * draws[aug._FACTORS : aug._FACTORS + 4].astype(np.float64) - 1.0
        factors, shift = 1.0 + 0.8 * config.strength * spread[:3], 0.2 * config.strength * spread[3]
        for step in np.argsort(draws[aug._ORDER : aug._ORDER + 4], kind="stable"):
            if step == 0:  # brightness
                x = factors[0] * x
            elif step == 1:  # contrast
                x = factors[1] * x + (1.0 - factors[1]) * grey().mean()
            elif step == 2:  # saturation
                x = factors[2] * x + (1.0 - factors[2]) * grey()
            else:
                x = slow_hue(x, shift)
    if draws[aug._GREY] < config.grey_probability:
        x = np.repeat(grey(), 3, axis=-1)
    return np.clip(x, 0.0, 1.0)


def slow_hue(image, shift):
    result = np.zeros(image.shape)
    for pixel in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[pixel])
        result[pixel] = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
    return result


@pytest.mark.parametrize(
    ("jitter", "grey", "strength"),
    [(1.0, 0.0, 0.5), (1.0, 0.0, 1.0), (0.5, 0.5, 0.5), (1.0, 1.0, 0.7), (0.0, 0.0, 0.5)],
)
def test_jitter_matches_a_loop_over_images(jitter, grey, strength):
    config = AugmentationConfig(strength=strength, jitter_probability=jitter, grey_probability=grey)
    images, draws = draw_images(24, 5, seed=5), draw(24, seed=6)
    # All 24 orders of the four steps, one per image.
    draws[:, aug._ORDER : aug._ORDER + 4] = np.array(list(itertools.permutations([0.1, 0.3, 0.6, 0.8])))
    found = aug.jitter_colours(to_rows(images), draws, config)
    expected = [slow_jitter(image, numbers, config) for image, numbers in zip(images, draws, strict=True)]
    assert found.shape == images.shape
    # Some float32 roundings, multiplied by factors of up to 1.8.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_brightness_by_hand(end):
    # With strength 0.5, the ends of the draw are the factors 1 - 0.4 and 1 + 0.4; the other operations change nothing.
    config = AugmentationConfig(jitter_probability=1.0, grey_probability=0.0)
    draws = draw(2)
    draws[:, aug._FACTORS : aug._FACTORS + 4] = [end, 0.5, 0.5, 0.5]
    images = 0.6 * draw_images(2)
    expected = images * (1.4 if end else 0.6)
    np.testing.assert_allclose(aug.jitter_colours(to_rows(images), draws, config), expected, atol=1e-6)


def test_probabilities_of_zero_change_nothing_but_the_rotation():
    images = draw_images(6)
    draws = with_whole_crop(draw(6, flip=0.0, jitter=0.0, grey=0.0))
    rotations = np.arange(6, dtype=np.int32) % 4
    found = aug.jitter_colours(aug.turn_and_crop(to_rows(images, rotations), rotations, draws, OFF), draws, OFF)
    expected = [np.rot90(image, rotation) for image, rotation in zip(images, rotations, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_instances_of_an_image_are_consecutive():
    # Images of one grey level each, which tells the image of an instance.
    levels = np.array([0.2, 0.5, 0.8], np.float32)
    images = np.tile(levels[:, None, None, None], (1, 8, 8, 3))
    rotations, labels = views.instances([7, 5, 6])
    np.testing.assert_array_equal(rotations, [0, 1, 2, 3] * 3)
    np.testing.assert_array_equal(labels, np.repeat([7, 5, 6], 4))
    found = aug.augment(images, rotations, seed=1, step=1, indices=tf.range(12), total=12, config=OFF)
    np.testing.assert_allclose(found[:, 4, 4, 0], np.tile(np.repeat(levels, 4), 2), atol=1e-5)


def test_greyscale_has_equal_channels():
    images = draw_images(8)
    found = aug.jitter_colours(to_rows(images), draw(8), AugmentationConfig(grey_probability=1.0)).numpy()
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=-1))
    only = AugmentationConfig(jitter_probability=0.0, grey_probability=1.0)
    found = aug.jitter_colours(to_rows(images), draw(8), only)
    np.testing.assert_allclose(found[..., 0], images @ LUMA, atol=1e-6)


def shift_hue(colours, shift):
    value, sixth_of_chroma, shares = aug._shift_hue(tf.unstack(tf.constant(colours), axis=-1), tf.constant(shift))
    return tf.stack([value - sixth_of_chroma * share for share in shares], -1)


@pytest.mark.parametrize("shift", [-1 / 3, -0.2, -0.1, 0.0, 0.07, 0.2, 1 / 3])
def test_shift_hue_matches_colorsys(shift):
    random = np.random.default_rng(7).random((40, 3))
    corners = np.array(list(itertools.product([0.0, 0.5, 1.0], repeat=3)))  # black, grey, ties of two channels
    colours = np.concatenate([random, corners]).astype(np.float32)[None, None]
    found = shift_hue(colours, [[[shift]]])
    # Hues of up to 36 units per circle in float32 are off by 1e-6.
    np.testing.assert_allclose(found[0], slow_hue(colours[0].astype(np.float64), shift), atol=5e-6)


def test_shift_hue_by_hand():
    # A third of the circle turns red into green, and orange (30 degrees) into 150 degrees, between green and cyan.
    found = shift_hue([[[[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]]]], [[[1 / 3]]])
    np.testing.assert_allclose(found, [[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.5]]]], atol=1e-6)


# The whole augmentation as a function of (seed, step, index, view).


def run(images, rotations, seed, step, indices):
    config = AugmentationConfig()
    return aug.augment(images, rotations, seed=seed, step=step, indices=indices, total=TOTAL, config=config)


SIGNATURE = [
    tf.TensorSpec([None, 8, 8, 3], tf.float32),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([None], tf.int32),
]


@pytest.fixture(scope="module")
def traced():
    """A function (indices, seed, step) -> two views [2, n, 8, 8, 3] of the instances at these indices."""
    function = tf.function(run, input_signature=SIGNATURE, autograph=False)
    images = draw_images(TOTAL, seed=8)

    def augment(indices=range(TOTAL), seed=3, step=5):
        indices = np.array(indices, np.int32)
        found = function(images[indices], indices % 4, seed, step, indices).numpy()
        return found.reshape(2, len(indices), 8, 8, 3)

    return augment


def test_augmented_images_are_float32_in_0_to_1(traced):
    for step in range(5):
        found = traced(step=step)
        assert found.dtype == np.float32
        assert found.min() >= 0.0
        assert found.max() <= 1.0
        assert found.std(axis=(2, 3)).mean() > 0.03  # not of one colour


def test_the_same_arguments_give_the_same_views(traced):
    np.testing.assert_array_equal(traced(), traced())


@pytest.mark.parametrize("indices", [[0, 1, 2], [9, 10, 11], [7], [11, 0, 4]])
def test_a_part_of_the_batch_gets_the_views_of_the_whole_batch(traced, indices):
    # A replica has a part of the global batch. Matrix products of fewer images may have another order of sums.
    np.testing.assert_allclose(traced(indices), traced()[:, indices], atol=1e-6)


def differing(a, b):
    return np.abs(a - b).max(axis=(1, 2, 3)) > 1e-3


def test_views_steps_and_seeds_differ(traced):
    found = traced()
    assert differing(found[0], found[1]).all()
    for other in (traced(step=6), traced(seed=4), traced(seed=5, step=3)):
        assert differing(found[0], other[0]).all()
        assert differing(found[1], other[1]).all()


def test_views_of_all_indices_differ():
    # One image at all indices.
    image = np.repeat(draw_images(1), TOTAL, axis=0)
    found = run(image, tf.zeros(TOTAL, tf.int32), 0, 0, tf.range(TOTAL)).numpy()
    assert len({view.tobytes() for view in found}) == 2 * TOTAL


def test_first_views_come_before_second_views():
    # With random crops only, a constant image does not change: rows i and n + i are views of image i.
    levels = np.linspace(0.1, 0.9, 5, dtype=np.float32)
    images = np.tile(levels[:, None, None, None], (1, 8, 8, 3))
    found = aug.augment(images, tf.zeros(5, tf.int32), seed=1, step=1, indices=tf.range(5), total=5, config=OFF)
    np.testing.assert_allclose(found[:, 4, 4, 0], np.tile(levels, 2), atol=1e-5)


def test_augmentations_occur_with_their_probabilities():
    # 4000 views of coloured images, 8 pixels wide, dark on the left.
    n = 2000
    ramp = np.linspace(0.0, 1.0, 8, dtype=np.float32)[None, None, :, None] * np.array([1.0, 0.6, 0.2], np.float32)
    images = np.tile(ramp, (n, 8, 1, 1))
    config = AugmentationConfig(flip_probability=0.3, jitter_probability=0.0, grey_probability=0.2)
    found = aug.augment(images, tf.zeros(n, tf.int32), seed=0, step=0, indices=tf.range(n), total=n, config=config)
    grey = np.ptp(found, axis=-1).max(axis=(1, 2)) < 1e-6
    flipped = found[:, 4, 0, 0].numpy() > found[:, 4, -1, 0].numpy()
    # Five standard errors of shares of 4000.
    assert grey.mean() == pytest.approx(0.2, abs=0.032)
    assert flipped.mean() == pytest.approx(0.3, abs=0.037)
    assert np.mean(flipped & grey) == pytest.approx(0.06, abs=0.02)
    assert np.mean(flipped[:n] & flipped[n:]) == pytest.approx(0.09, abs=0.033)  # independent views


# XLA, whose stateless_uniform would give other numbers (tensorflow#121243).


@pytest.fixture(scope="module")
def compiled():
    return tf.function(run, input_signature=SIGNATURE, jit_compile=True, autograph=False)


@pytest.mark.parametrize("rows", [slice(0, TOTAL), slice(4, 8)], ids=["whole", "part"])
def test_xla_gives_the_same_views(compiled, rows):
    images, indices = tf.constant(draw_images(TOTAL, seed=11)), tf.range(TOTAL)
    seed, step = tf.constant(1, tf.int64), tf.constant(2, tf.int64)
    expected = run(images, indices % 4, seed, step, indices).numpy().reshape(2, TOTAL, 8, 8, 3)[:, rows]
    found = compiled(images[rows], (indices % 4)[rows], seed, step, indices[rows])
    # Fused operations round differently.
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4)
