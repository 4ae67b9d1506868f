"""The scorer: embeddings, Gaussians, distances, scores and state, with a tiny network."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import ScoringConfig
from mcl_tf.errors import UsageError
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.scoring import self_ensemble

SIZE, DIMENSION = 8, 6


def make_network(seed=0):
    """Build a network whose embeddings differ between views, with seeded weights."""
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            layers.Input((SIZE, SIZE, 3)),
            layers.Conv2D(4, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(DIMENSION),
        ]
    )
    rng = np.random.default_rng(seed)
    network.set_weights([rng.normal(0.0, 0.3, weight.shape) for weight in network.get_weights()])
    return network


def make_scorer(num_classes=1, **options):
    return SelfEnsembleScorer(make_network(), ScoringConfig(**options), num_classes)


def draw_images(count, seed=0, shape=(SIZE, SIZE, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def fitted_scorer(num_classes=2, count=30, **options):
    scorer = make_scorer(num_classes, **options)
    scorer.fit_gaussians(draw_images(count), np.arange(count) % num_classes)
    return scorer


# Embeddings.


@pytest.mark.parametrize("count", [8, 4, 1])
def test_embeddings_are_those_of_the_views(count):
    scorer, images = make_scorer(), draw_images(5)
    found = scorer.embed(images, count)
    assert found.shape == (5, count, DIMENSION)
    assert found.dtype == tf.float32
    for i in range(5):
        turned = views.to_float(views.self_ensemble_views(images[i : i + 1], count))
        expected = scorer.network(turned).numpy()
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
        np.testing.assert_allclose(found[i], expected, atol=1e-6)


def test_embed_prepares_images_of_other_sizes_and_channels():
    scorer, images = make_scorer(), draw_images(3, shape=(13, 10, 4))
    expected = scorer.embed(views.prepare(images, SIZE), 8)
    np.testing.assert_array_equal(scorer.embed(images, 8), expected)


@pytest.mark.parametrize("graph", [False, True])
def test_an_empty_batch_gives_no_embeddings(graph):
    scorer = make_scorer()
    embed = lambda images: scorer.embed(images, 4)  # noqa: E731
    if graph:
        embed = tf.function(embed, [tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)], autograph=False)
    assert embed(draw_images(0)).shape == (0, 4, DIMENSION)
    assert embed(draw_images(2)).shape == (2, 4, DIMENSION)


# Gaussians, distances and scores.


@pytest.mark.parametrize("batch_size", [128, 7, 1])
@pytest.mark.parametrize("shrinkage", ["ledoit_wolf", 0.5])
def test_gaussians_are_fitted_to_all_eight_views_in_batches(batch_size, shrinkage):
    """With fewer views at test time, too."""
    images, labels = draw_images(31), np.arange(31) % 2
    scorer = make_scorer(2, views=1, shrinkage=shrinkage, scoring_batch_size=batch_size)
    scorer.fit_gaussians(images, labels)
    embeddings = scorer.embed(images, 8).numpy().reshape(-1, DIMENSION)
    rotations = np.tile(views.view_rotations(8), 31)
    expected = ClassConditionalGaussians.fit(
        embeddings, np.repeat(labels, 8), rotations, num_classes=2, shrinkage=shrinkage
    )
    # Batches of another size change the rounding of embeddings, which the inverse covariance magnifies.
    np.testing.assert_allclose(scorer.means, expected.means, atol=1e-6)
    scale = np.abs(expected.whitenings).max()
    np.testing.assert_allclose(scorer.whitenings, expected.whitenings, atol=1e-4 * scale)


def test_a_failed_fit_changes_no_gaussians():
    scorer = fitted_scorer()
    before = scorer.state()
    with pytest.raises(UsageError, match="at least two embeddings"):
        scorer.fit_gaussians(draw_images(3), np.zeros(3, int))  # no image of class 1
    for name, values in scorer.state().items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("count", [8, 4, 1])
def test_distances_are_those_of_the_gaussians(count):
    scorer, images = fitted_scorer(views=count), draw_images(5, seed=1)
    gaussians = ClassConditionalGaussians(scorer.means, scorer.whitenings)
    found = scorer.distances(images)
    assert found.shape == (5, count, 2)
    for i in range(5):
        expected = gaussians.distances(scorer.embed(images[i : i + 1], count)[0], views.view_rotations(count))
        np.testing.assert_allclose(found[i], expected, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [128, 4, 1])
@pytest.mark.parametrize("form", ["array", "dataset"])
def test_distances_of_any_number_of_images(form, batch_size):
    scorer, images = fitted_scorer(views=4, scoring_batch_size=batch_size), draw_images(9, seed=1)
    expected = scorer.distances(images)
    data = images if form == "array" else tf.data.Dataset.from_tensor_slices(images)
    found = scorer.all_distances(data)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_images_give_no_distances_and_scores():
    scorer = fitted_scorer(views=4)
    assert scorer.all_distances(draw_images(0)).shape == (0, 4, 2)
    assert scorer.scores(draw_images(0)).shape == (0,)


@pytest.mark.parametrize("method", ["weighted", "sum", "min"])
def test_scores_combine_the_distances(method):
    scorer, images = fitted_scorer(method=method), draw_images(5, seed=1)
    expected, _ = self_ensemble(scorer.all_distances(images), method)
    np.testing.assert_array_equal(scorer.scores(images), expected)


def test_the_graph_is_traced_once():
    """For all batches of the same size, also after another fit."""
    traces = []

    class Network(tf.keras.Model):
        input_shape, output_shape = (None, SIZE, SIZE, 3), (None, 3)

        def call(self, images, training=False):
            traces.append(images.shape)
            return tf.reduce_mean(images, [1, 2])

    scorer = SelfEnsembleScorer(Network(), ScoringConfig(scoring_batch_size=4, shrinkage=0.5), 1)
    for seed in range(2):
        scorer.fit_gaussians(draw_images(8, seed), np.zeros(8, int))
        scorer.all_distances(draw_images(8, seed))
    assert len(traces) <= 2 * 2  # per function: one trace, and Keras may call the network once more to build it


# State.


def test_state_round_trip():
    scorer, other, images = fitted_scorer(), make_scorer(2), draw_images(5, seed=1)
    scorer.threshold.assign(1.5)
    other.network.set_weights(make_network(seed=1).get_weights())
    assert not np.allclose(other.embed(images, 8), scorer.embed(images, 8))
    state = scorer.state()
    assert {"means", "whitenings", "threshold", "network/0000", "network/0003"} <= set(state)
    other.set_state(state)
    np.testing.assert_array_equal(other.scores(images), scorer.scores(images))
    assert float(other.threshold) == 1.5
    assert other.num_classes == 2


def remove(name):
    return lambda state: state.pop(name)


def reshape(name):
    return lambda state: state.update({name: state[name][:-1]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove("means"), r"means should have the shape \(4, 2, 6\). Received: nothing"),
        (remove("network/0002"), r"network/0002 should have the shape .* Received: nothing"),
        (reshape("whitenings"), r"whitenings should have the shape \(4, 2, 6, 6\). Received: \(3, 2, 6, 6\)"),
        (reshape("network/0003"), r"network/0003 should have the shape \(6,\). Received: \(5,\)"),
    ],
)
def test_a_state_of_other_shapes_is_refused_and_changes_nothing(damage, message):
    scorer = fitted_scorer()
    before = scorer.state()
    state = {name: values + 1.0 for name, values in before.items()}
    damage(state)
    with pytest.raises(ValueError, match=message):
        scorer.set_state(state)
    for name, values in scorer.state().items():
        np.testing.assert_array_equal(values, before[name])


def test_with_network_keeps_gaussians_and_threshold():
    scorer, network = fitted_scorer(), make_network(seed=1)
    scorer.threshold.assign(1.5)
    copy = scorer.with_network(network)
    assert copy.network is network
    for name in ("means", "whitenings", "threshold"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(scorer, name))
    copy.threshold.assign(2.5)
    assert float(scorer.threshold) == 1.5


def test_the_global_dtype_policy_has_no_effect():
    images, expected = draw_images(5, seed=1), fitted_scorer().scores(draw_images(5, seed=1))
    network, before = make_network(), tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        scorer = SelfEnsembleScorer(network, ScoringConfig(), 2)
        scorer.fit_gaussians(draw_images(30), np.arange(30) % 2)
        np.testing.assert_array_equal(scorer.scores(images), expected)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
