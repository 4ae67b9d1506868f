import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import embeddings, explanation, fitting, patches
from mcl_tf.config import ScoringConfig
from mcl_tf.patches import DIMENSION, PatchFeatures, PatchGaussians, middle_stages
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.texture import TextureDescriptor
from mcl_tf.utils import compat

layers = tf.keras.layers
SIZE, SIDE = 64, 8


def make_encoder(widths=(4, 6, 8, 70), seed=0):
    """Encoder whose stages halve the sides; the last two have 8 and 4 places per row for images of 64 pixels."""
    inputs = x = layers.Input((SIZE, SIZE, 3))
    for index, width in enumerate(widths):
        x = layers.Conv2D(width, 3, 2, "same", activation="relu", name=f"stage_{index}")(x)
    encoder = tf.keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(seed)
    encoder.set_weights([rng.normal(0.0, 0.3, weight.shape) for weight in encoder.get_weights()])
    return encoder


def normal_images(count, seed=0):
    """Noise that is brighter from the left to the right."""
    rng = np.random.default_rng(seed)
    images = rng.normal(100, 20, (count, SIZE, SIZE, 3)) + np.linspace(0, 60, SIZE)[None, None, :, None]
    return images.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scorer():
    encoder = make_encoder()
    network = embeddings.embedding_network(encoder, None, "stages", with_patches=True)
    scorer = SelfEnsembleScorer(
        network, ScoringConfig(score="both"), 1, False, TextureDescriptor(SIZE, 3), encoder=encoder
    )
    images = normal_images(60)
    fitting.fit_gaussians(scorer, images, np.zeros(60, int))
    fitting.fit_units(scorer, normal_images(30, 1), images)
    return scorer


# Which stages, and their features.


@pytest.mark.parametrize(
    ("size", "sides", "expected"),
    [
        (128, [64, 32, 16, 8, 4], [16, 8]),
        (224, [112, 56, 28, 14, 7], [28, 14]),
        (512, [256, 128, 64, 32, 16], [32, 16]),  # no more places than memory is planned for
        (96, [48, 24, 12, 6, 3], [12, 6]),
        (50, [25, 13, 7, 4, 2], [7, 4]),
        (32, [16, 8, 4, 2, 1], [4, 2]),
        (64, [32, 16, 8], [8]),
        (64, [32, 16], []),
        (16, [8, 4, 1], []),
    ],
)
def test_middle_stages_are_the_two_largest_of_wide_places(size, sides, expected):
    maps = [layers.Input((side, side, 3)) for side in sides]
    assert [features.shape[1] for features in middle_stages(maps, size)] == expected


def test_features_are_normalized_resized_and_joined(rng):
    large, small = rng.random((2, 4, 4, 3), np.float32), rng.random((2, 2, 2, 5), np.float32)
    features = PatchFeatures()([tf.constant(large), tf.constant(small)]).numpy()
    unit = small / np.linalg.norm(small, axis=-1, keepdims=True)
    np.testing.assert_allclose(features[..., :3], large / np.linalg.norm(large, axis=-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(features[:, ::3, ::3, 3:], unit, rtol=1e-5)  # corners lie beyond the outer centers
    # Bilinear interpolation with aligned centers: the second of four places lies a quarter of the way.
    expected = 0.75 * unit[:, 0, 0] + 0.25 * unit[:, 0, 1]
    np.testing.assert_allclose(features[:, 0, 1, 3:], expected, rtol=1e-5)


def test_wide_features_are_projected_and_keep_their_distances(rng):
    maps = tf.constant(rng.random((3, 2, 2, 5 * DIMENSION), np.float32))
    layer = PatchFeatures()
    features = layer([maps])
    assert features.shape == layer.compute_output_shape([maps.shape]) == (3, 2, 2, DIMENSION)
    np.testing.assert_allclose(layer.projection.numpy().T @ layer.projection.numpy(), np.eye(DIMENSION), atol=1e-5)
    np.testing.assert_array_equal(features, PatchFeatures.from_config(layer.get_config())([maps]))


# Gaussians.


def fit(features, flips):
    gaussians = PatchGaussians(features.shape[2], features.shape[-1])
    moments = gaussians.moments()
    for start in range(0, len(features), 7):  # batches do not matter
        moments.update(tf.constant(features[start : start + 7]), flips)
    gaussians.fit(moments)
    return gaussians


def test_distances_are_those_of_one_gaussian_per_place(rng):
    features = rng.normal(1.0, 2.0, (40, 2, 3, 3, 4)).astype(np.float32)
    gaussians = fit(features, [False, True])
    upright = np.stack([features[:, 0], features[:, 1, :, ::-1]], 1).astype(np.float64)
    flat = upright.reshape(80, 9, 4).transpose(1, 0, 2)
    covariances = np.stack([np.cov(place, rowvar=False, bias=True) for place in flat])
    common = covariances.mean(0)
    covariances = (80 * covariances + 4 * common) / 84 + 1e-6 * np.trace(common) / 4 * np.eye(4)
    distances = np.zeros((40, 3, 3))
    for view in range(2):
        for place, covariance in enumerate(covariances):
            rest = upright[:, view].reshape(40, 9, 4)[:, place] - flat[place].mean(0)
            squared = np.einsum("nd,de,ne->n", rest, np.linalg.inv(covariance), rest)
            distances[:, place // 3, place % 3] += 0.5 * np.sqrt(squared)
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    for axis in (1, 2):
        widths = [(2, 2) if axis == own else (0, 0) for own in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(distances, widths, "symmetric"), 5, axis)
        distances = windows @ kernel
    found = gaussians(tf.constant(features), flips=[False, True]).numpy()
    np.testing.assert_allclose(found, distances, rtol=1e-3)  # whitenings of float32
    np.testing.assert_allclose(gaussians.score(found), distances.max((1, 2)), rtol=1e-3)


def test_equal_features_have_finite_distances():
    gaussians = fit(np.ones((5, 1, 2, 2, 3), np.float32), [False])
    assert np.isfinite(gaussians(tf.ones((2, 1, 2, 2, 3)), flips=[False])).all()


# Within the scorer.


def test_the_score_adds_the_largest_distance_in_units_of_its_spread(scorer):
    images = tf.constant(normal_images(10, 3))
    distances, _, parts = scorer.measure_parts(images)
    unit = dict(zip(scorer.part_names, scorer.standardization.numpy(), strict=True))
    scaled = {
        name: (parts[name].numpy() - unit[name][0]) / unit[name][1] for name in ("distance", "texture", "patches")
    }
    image = (scaled["distance"] - unit["image"][0]) / unit["image"][1]
    expected = image + scaled["texture"] + scaled["patches"]
    np.testing.assert_allclose(scorer.score_batch(images)["score"], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(parts["patches"], tf.reduce_max(parts["places"], (1, 2)))


def test_units_are_those_of_held_out_images(scorer):
    parts = scorer.measure_parts(tf.constant(normal_images(30, 1)))[2]
    unit = dict(zip(scorer.part_names, scorer.standardization.numpy(), strict=True))
    for name in ("texture", "patches", "places"):
        np.testing.assert_allclose(unit[name], [np.mean(parts[name]), np.std(parts[name])], rtol=1e-3)


@pytest.mark.parametrize(("row", "column"), [(16, 16), (40, 8), (50, 50)])
def test_the_heat_map_shows_a_defect(scorer, row, column):
    images = normal_images(6, 4)
    images[:, row - 6 : row + 6, column - 6 : column + 6] = 255 - images[:, row - 6 : row + 6, column - 6 : column + 6]
    heat = explanation.heat_map(scorer, tf.constant(images)).numpy()
    assert heat.shape == (6, SIZE, SIZE)
    inside = heat[:, row - 6 : row + 6, column - 6 : column + 6].mean((1, 2))
    assert (inside > heat.mean((1, 2)) + 0.5).all()


def test_state_round_trip(scorer):
    network = embeddings.embedding_network(make_encoder(seed=1), None, "stages", with_patches=True)
    other = SelfEnsembleScorer(network, scorer.config, 1, False, TextureDescriptor(SIZE, 3))
    other.set_state(scorer.state())
    images = tf.constant(normal_images(4, 5))
    for name in ("score", "distances"):
        np.testing.assert_array_equal(other.score_batch(images)[name], scorer.score_batch(images)[name])
    np.testing.assert_array_equal(explanation.heat_map(other, images), explanation.heat_map(scorer, images))


def test_an_empty_batch(scorer):
    none = tf.zeros((0, SIZE, SIZE, 3), tf.uint8)
    compute = compat.graph(scorer.score_batch, [None, SIZE, SIZE, 3])
    assert compute(none)["score"].shape == (0,)
    assert explanation.heat_map(scorer, none).shape == (0, SIZE, SIZE)


def test_an_encoder_without_places_has_none():
    inputs = layers.Input((SIZE, SIZE, 3))
    encoder = tf.keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.AveragePooling2D(16)(inputs))))
    assert embeddings.embedding_network(encoder, None, "stages", with_patches=True) is encoder


def test_the_projection_is_the_same_in_every_process():
    """Saved Gaussians belong to it."""
    layer = PatchFeatures()
    layer.build([(None, 2, 2, 3 * DIMENSION)])
    drawn = np.random.default_rng([patches._SEED, *b"patches"]).normal(size=(3 * DIMENSION, DIMENSION))
    # Columns span the same space, whatever signs the decomposition gives.
    projector = layer.projection.numpy() @ layer.projection.numpy().T
    np.testing.assert_allclose(projector @ drawn, drawn, atol=1e-4)
