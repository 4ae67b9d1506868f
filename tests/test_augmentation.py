"""The augmentation against slow references that work picture by picture and pixel by pixel."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import augmentation as aug
from mcl_tf import views
from mcl_tf.config import AugmentationConfig
from mcl_tf.utils.stateless_random import uniform

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
OFF = AugmentationConfig(flip_probability=0.0, jitter_probability=0.0, grey_probability=0.0)
TOTAL = 12  # instances of the global batch in the tests of `augment`


def pictures(n, size=8, seed=0):
    return np.random.default_rng(seed).random((n, size, size, 3), np.float32)


def lines(images, rotations=None):
    """Pictures [n, s, s, 3] as `turn_and_crop` takes them: rows, channels, columns; odd rotations transposed."""
    if rotations is not None:
        odd = (np.asarray(rotations) % 2 == 1)[:, None, None, None]
        images = np.where(odd, np.swapaxes(images, 1, 2), images)
    return tf.transpose(images, (0, 1, 3, 2))


def draw(n, seed=0, **fixed):
    """Random numbers as `augment` draws them, some set by the names of their places."""
    draws = np.random.default_rng(seed).random((n, aug._DRAWS), np.float32)
    for name, value in fixed.items():
        draws[:, getattr(aug, f"_{name.upper()}")] = value
    return draws


def whole_picture(draws):
    """The same draws with a first crop of area 1 (the largest draw of area, the middle of the aspects)."""
    draws[:, aug._CROP] = 1.0
    draws[:, aug._CROP + aug._TRIES] = 0.5
    return draws


def test_every_random_number_has_one_use():
    uses = [[aug._FLIP], [aug._LEFT], [aug._TOP], [aug._JITTER], [aug._GREY]]
    uses += [range(aug._FACTORS, aug._FACTORS + 4), range(aug._ORDER, aug._ORDER + 4)]
    uses += [range(aug._CROP, aug._CROP + 2 * aug._TRIES)]
    assert sorted(itertools.chain(*uses)) == list(range(aug._DRAWS))


# Flip and crop.


def slow_crop(image, rotation, draws, config):
    """One picture flipped, then every pixel of the crop read at its place between four others."""
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
        """The two pixels around a target pixel's centre inside the window, and the share of the second."""
        inside = min(max((target + 0.5) * window / size - 0.5, 0.0), window - 1.0)
        place = inside + offset * (size - window)
        low = min(int(place), size - 1)
        return low, min(low + 1, size - 1), place - low

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
    [(0.08, 0.5), (0.5, 1.0), (0.9, 0.0), (1.0, 0.5)],  # of area 1 hardly any crop fits
)
def test_turn_and_crop_matches_a_loop_over_pixels(min_area, flips):
    config = AugmentationConfig(crop_min_area=min_area, flip_probability=flips)
    images, draws, rotations = pictures(16), draw(16, seed=1), np.arange(16, dtype=np.int32) % 4
    found = tf.transpose(aug.turn_and_crop(lines(images, rotations), rotations, draws, config), (0, 1, 3, 2))
    expected = [
        slow_crop(np.rot90(image, rotation).astype(np.float64), rotation, numbers.astype(np.float64), config)
        for image, rotation, numbers in zip(images, rotations, draws, strict=True)
    ]
    # Places up to 8 in float32 are off by up to 1e-6, colours by that times a difference of at most 1.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rotation", range(4))
def test_flips_are_left_right_in_the_upright_picture(rotation):
    x = pictures(3)
    config = AugmentationConfig(flip_probability=1.0)
    draws = whole_picture(draw(3, seed=2))
    rotations = np.full(3, rotation, np.int32)
    found = aug.turn_and_crop(lines(x, rotations), rotations, draws, config)
    expected = np.rot90(x[:, :, ::-1], rotation, axes=(1, 2))
    np.testing.assert_allclose(tf.transpose(found, (0, 1, 3, 2)), expected, atol=1e-5)


@pytest.mark.parametrize(("size", "window", "start"), [(8, 4, 0), (8, 5, 3), (9, 2, 4), (6, 6, 0), (8, 1, 7)])
@pytest.mark.parametrize("flip", [False, True])
def test_resampling_of_whole_pixels_is_a_cut_and_a_resize(size, window, start, flip):
    # TensorFlow's bilinear resize of the cut-out window, which repeats its edge as well.
    offset = start / (size - window) if size > window else 0.4
    matrix = aug._resampling(
        size, tf.constant([window / size]), tf.constant([offset], tf.float32), tf.constant([flip])
    )
    line = np.random.default_rng(3).random(size, np.float32)
    cut = (line[::-1] if flip else line)[start : start + window]
    expected = tf.image.resize(cut[None, :, None], (1, size))[0, :, 0]
    np.testing.assert_allclose(matrix[0] @ line[:, None], expected[:, None], atol=1e-5)


@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.77, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, 0.999])
def test_resampling_keeps_a_constant_picture(fraction, offset):
    matrix = aug._resampling(10, tf.constant([fraction]), tf.constant([offset]), tf.constant([False]))
    np.testing.assert_allclose(tf.reduce_sum(matrix, -1), np.ones((1, 10)), atol=1e-5)
    assert (matrix.numpy() >= 0).all()


def test_resampling_of_less_than_a_pixel_keeps_a_constant_picture():
    # 8 pixels and the smallest crop_min_area, 0.01: the side is a tenth of the picture.
    matrix = aug._resampling(8, tf.constant([0.1]), tf.constant([0.999]), tf.constant([False]))
    np.testing.assert_allclose(tf.reduce_sum(matrix, -1), np.ones((1, 8)), atol=1e-5)


def test_crops_keep_to_their_ranges(monkeypatch):
    sides, resampling = [], aug._resampling

    def record(size, fraction, offset, flip):
        sides.append(np.array(fraction, np.float64))
        assert ((offset >= 0) & (offset < 1)).all()
        return resampling(size, fraction, offset, flip)

    monkeypatch.setattr(aug, "_resampling", record)
    aug.turn_and_crop(lines(pictures(2000, 2)), tf.zeros(2000, tf.int32), draw(2000, seed=4), AugmentationConfig())
    high, wide = sides
    area, aspect = wide * high, wide / high
    assert 0.08 - 1e-6 < area.min() < 0.1
    assert 0.95 < area.max() < 1.0 + 1e-6
    assert 3 / 4 - 1e-6 < aspect.min() < 0.77
    assert 1.3 < aspect.max() < 4 / 3 + 1e-6
    assert abs(np.log(aspect).mean()) < 0.02  # spread 0.166: five standard errors of 2000
    # A crop of area a > 3/4 fits with probability -ln(a) / ln(4/3), so that of all draws (0.67 + 0.119) / 0.92 =
    # 0.858 fit; half of the range has 0.5 / 0.858 = 0.583 of them, five standard errors of 2000 are 0.056.
    assert np.mean(area < 0.08 + 0.46) == pytest.approx(0.583, abs=0.056)


# Colours.


def slow_jitter(image, draws, config):
    """One picture: jitter in the drawn order without clipping, then greyscale, then one clip."""
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
    for place in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[place])
        result[place] = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
    return result


@pytest.mark.parametrize(
    ("jitter", "grey", "strength"),
    [(1.0, 0.0, 0.5), (1.0, 0.0, 1.0), (0.5, 0.5, 0.5), (1.0, 1.0, 0.7), (0.0, 0.0, 0.5)],
)
def test_jitter_matches_a_loop_over_pictures(jitter, grey, strength):
    config = AugmentationConfig(strength=strength, jitter_probability=jitter, grey_probability=grey)
    images, draws = pictures(24, 5, seed=5), draw(24, seed=6)
    # All 24 orders of the four steps, one a picture.
    draws[:, aug._ORDER : aug._ORDER + 4] = np.array(list(itertools.permutations([0.1, 0.3, 0.6, 0.8])))
    found = aug.jitter_colours(lines(images), draws, config)
    expected = [slow_jitter(image, numbers, config) for image, numbers in zip(images, draws, strict=True)]
    assert found.shape == images.shape
    # A handful of float32 roundings; factors up to 1.8 each multiply them.
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_brightness_by_hand(end):
    # Strength 0.5 and the ends of the draw: 1 - 0.4 and 1 + 0.4 times; the others at 1, the hue where it was.
    config = AugmentationConfig(jitter_probability=1.0, grey_probability=0.0)
    draws = draw(2)
    draws[:, aug._FACTORS : aug._FACTORS + 4] = [end, 0.5, 0.5, 0.5]
    images = 0.6 * pictures(2)
    expected = images * (1.4 if end else 0.6)
    np.testing.assert_allclose(aug.jitter_colours(lines(images), draws, config), expected, atol=1e-6)


def test_probabilities_of_zero_leave_the_picture():
    images = pictures(6)
    draws = whole_picture(draw(6, flip=0.0, jitter=0.0, grey=0.0))
    rotations = np.arange(6, dtype=np.int32) % 4
    found = aug.jitter_colours(aug.turn_and_crop(lines(images, rotations), rotations, draws, OFF), draws, OFF)
    expected = [np.rot90(image, rotation) for image, rotation in zip(images, rotations, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_picture_has_its_instances_side_by_side():
    # Pictures of one level each: what `augment` makes of them tells which picture an instance is of.
    levels = np.array([0.2, 0.5, 0.8], np.float32)
    images = np.tile(levels[:, None, None, None], (1, 8, 8, 3))
    rotations, labels = views.instances([7, 5, 6])
    np.testing.assert_array_equal(rotations, [0, 1, 2, 3] * 3)
    np.testing.assert_array_equal(labels, np.repeat([7, 5, 6], 4))
    found = aug.augment(images, rotations, seed=1, step=1, places=tf.range(12), total=12, config=OFF)
    np.testing.assert_allclose(found[:, 4, 4, 0], np.tile(np.repeat(levels, 4), 2), atol=1e-5)


def test_grey_pictures_have_equal_channels():
    images = pictures(8)
    found = aug.jitter_colours(lines(images), draw(8), AugmentationConfig(grey_probability=1.0)).numpy()
    np.testing.assert_array_equal(found, np.repeat(found[..., :1], 3, axis=-1))
    only = AugmentationConfig(jitter_probability=0.0, grey_probability=1.0)
    found = aug.jitter_colours(lines(images), draw(8), only)
    np.testing.assert_allclose(found[..., 0], images @ LUMA, atol=1e-6)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 1 / 3, 0.9])
def test_shift_hue_matches_colorsys(shift):
    random = np.random.default_rng(7).random((40, 3))
    corners = np.array(list(itertools.product([0.0, 0.5, 1.0], repeat=3)))  # black, grey, ties of two channels
    colours = np.concatenate([random, corners]).astype(np.float32)[None, None]
    found = aug.shift_hue(tf.unstack(tf.constant(colours), axis=-1), tf.constant([[[shift]]], tf.float32))
    # Sextants up to 12 in float32 are off by 1e-6.
    np.testing.assert_allclose(tf.stack(found, -1)[0], slow_hue(colours[0].astype(np.float64), shift), atol=5e-6)


def test_shift_hue_by_hand():
    # A third of the circle turns red to green and orange (hue 30 degrees) to 150 degrees, half-way to cyan.
    colours = tf.constant([[[[1.0, 0.0, 0.0], [1.0, 0.5, 0.0]]]])
    found = tf.stack(aug.shift_hue(tf.unstack(colours, axis=-1), tf.constant([[[1 / 3]]])), -1)
    np.testing.assert_allclose(found, [[[[0.0, 1.0, 0.0], [0.0, 1.0, 0.5]]]], atol=1e-6)


# The whole, as a function of (seed, step, place, view).


def run(images, rotations, seed, step, places):
    return aug.augment(
        images, rotations, seed=seed, step=step, places=places, total=TOTAL, config=AugmentationConfig()
    )


SIGNATURE = [
    tf.TensorSpec([None, 8, 8, 3], tf.float32),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([None], tf.int32),
]


@pytest.fixture(scope="module")
def traced():
    """Augments pictures at their places: (places, seed, step) -> [2, n, 8, 8, 3], the two views."""
    function = tf.function(run, input_signature=SIGNATURE, autograph=False)
    images = pictures(TOTAL, seed=8)

    def augment(places=range(TOTAL), seed=3, step=5):
        places = np.array(places, np.int32)
        found = function(images[places], places % 4, seed, step, places).numpy()
        return found.reshape(2, len(places), 8, 8, 3)

    return augment


def test_augmented_pictures_keep_shape_and_range(traced):
    for step in range(5):
        found = traced(step=step)
        assert found.dtype == np.float32
        assert found.min() >= 0.0
        assert found.max() <= 1.0
        assert found.std(axis=(2, 3)).mean() > 0.03  # pictures, not flat colours


def test_the_same_numbers_give_the_same_views(traced):
    np.testing.assert_array_equal(traced(), traced())


@pytest.mark.parametrize("places", [[0, 1, 2], [9, 10, 11], [7], [11, 0, 4]])
def test_a_part_of_the_batch_gets_what_the_whole_would_give_it(traced, places):
    # A replica with a part of the global batch; matrix products of fewer pictures may add in another order.
    np.testing.assert_allclose(traced(places), traced()[:, places], atol=1e-6)


def differing(a, b):
    return np.abs(a - b).max(axis=(1, 2, 3)) > 1e-3


def test_views_steps_and_seeds_differ(traced):
    found = traced()
    assert differing(found[0], found[1]).all()
    for other in (traced(step=6), traced(seed=4), traced(seed=5, step=3)):
        assert differing(found[0], other[0]).all()
        assert differing(found[1], other[1]).all()


def test_places_differ():
    # One picture at all places: every view is another one.
    image = np.repeat(pictures(1), TOTAL, axis=0)
    found = run(image, tf.zeros(TOTAL, tf.int32), 0, 0, tf.range(TOTAL)).numpy()
    assert len({view.tobytes() for view in found}) == 2 * TOTAL


def test_first_views_come_before_second_ones():
    # Without randomness but the crop, a constant picture stays itself: row i and row n + i are picture i.
    levels = np.linspace(0.1, 0.9, 5, dtype=np.float32)
    images = np.tile(levels[:, None, None, None], (1, 8, 8, 3))
    found = aug.augment(images, tf.zeros(5, tf.int32), seed=1, step=1, places=tf.range(5), total=5, config=OFF)
    np.testing.assert_allclose(found[:, 4, 4, 0], np.tile(levels, 2), atol=1e-5)


def test_probabilities_are_met():
    # 4000 views of coloured pictures, 8 pixels wide, dark on the left: how many are grey, how many flipped.
    n = 2000
    ramp = np.linspace(0.0, 1.0, 8, dtype=np.float32)[None, None, :, None] * np.array([1.0, 0.6, 0.2], np.float32)
    images = np.tile(ramp, (n, 8, 1, 1))
    config = AugmentationConfig(flip_probability=0.3, jitter_probability=0.0, grey_probability=0.2)
    found = aug.augment(images, tf.zeros(n, tf.int32), seed=0, step=0, places=tf.range(n), total=n, config=config)
    grey = np.ptp(found, axis=-1).max(axis=(1, 2)) < 1e-6
    flipped = found[:, 4, 0, 0].numpy() > found[:, 4, -1, 0].numpy()
    # Five standard errors of shares of 4000.
    assert grey.mean() == pytest.approx(0.2, abs=0.032)
    assert flipped.mean() == pytest.approx(0.3, abs=0.037)
    assert np.mean(flipped & grey) == pytest.approx(0.06, abs=0.02)
    assert np.mean(flipped[:n] & flipped[n:]) == pytest.approx(0.09, abs=0.033)  # views are independent


# XLA, whose own stateless_uniform would give other numbers (tensorflow#121243).


@pytest.fixture(scope="module")
def compiled():
    return tf.function(run, input_signature=SIGNATURE, jit_compile=True, autograph=False)


@pytest.mark.parametrize("rows", [slice(0, TOTAL), slice(4, 8)], ids=["whole", "part"])
def test_xla_gives_the_same_views(compiled, rows):
    images, places = tf.constant(pictures(TOTAL, seed=11)), tf.range(TOTAL)
    arguments = (images, places % 4, tf.constant(1, tf.int64), tf.constant(2, tf.int64), places)
    expected = run(*arguments).numpy().reshape(2, TOTAL, 8, 8, 3)[:, rows]
    images, rotations, seed, step, places = arguments
    found = compiled(images[rows], rotations[rows], seed, step, places[rows])
    # Fused operations round elsewhere.
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-4)


def test_uniform_numbers_are_uniform():
    # 20 equal shares of 20,000 numbers: chi-square with 19 degrees of freedom exceeds 56 once in 60,000 times.
    found = uniform([20_000], [3, 4]).numpy()
    assert found.dtype == np.float32
    assert found.min() >= 0.0
    assert found.max() < 1.0
    counts = np.bincount((found * 20).astype(int), minlength=20)
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 56.0


def test_uniform_numbers_follow_from_the_seed():
    np.testing.assert_array_equal(uniform([50], [3, 4]), uniform([50], [3, 4]))
    for other in ([3, 5], [4, 4], [4, 3]):
        assert (uniform([50], [3, 4]).numpy() != uniform([50], other).numpy()).all()


def test_the_largest_bits_stay_below_one(monkeypatch):
    # Float32 rounds the largest integers to 2^31, which would give 1.
    ends = tf.constant([-(2**31), -1, 0, 2**31 - 1], tf.int32)
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda *_, **__: ends)
    found = uniform([4], [0, 0]).numpy()
    np.testing.assert_allclose(found, [0.0, 0.5, 0.5, 1.0], atol=1e-7)
    assert found[0] == 0.0
    assert found[-1] < 1.0
