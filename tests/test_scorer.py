"""The scorer: embeddings, Gaussians, distances, units, scores and state, with a tiny network."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import fitting, views
from mcl_tf.config import ScoringConfig
from mcl_tf.errors import UsageError
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.scoring import rotation_evidence, self_ensemble
from mcl_tf.texture import TextureDescriptor
from mcl_tf.utils import memory, parallel

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


def make_scorer(num_classes=1, knows_rotations=True, texture=None, network=True, **options):
    return SelfEnsembleScorer(
        make_network() if network else None, ScoringConfig(**options), num_classes, knows_rotations, texture
    )


def draw_images(count, seed=0, shape=(SIZE, SIZE, 3)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def fitted_scorer(num_classes=2, count=30, held_out=20, **options):
    scorer = make_scorer(num_classes, **options)
    images = draw_images(count, shape=(scorer.image_size, scorer.image_size, 3))
    fitting.fit_gaussians(scorer, images, np.arange(count) % num_classes)
    fitting.fit_units(scorer, draw_images(held_out, 7, images.shape[1:]), images)
    return scorer


def all_distances(scorer, images):
    return scorer.evaluate_images(images)["distances"]


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


@pytest.mark.parametrize("count", [8, 2])
@pytest.mark.parametrize("areas", [(1.0, 0.5), (0.25, 1.0, 0.5)])
def test_the_embedding_of_several_areas_is_the_normalized_mean_of_theirs(areas, count):
    images = draw_images(5)
    several = make_scorer(view_area=areas).embed(images, count)
    each = [make_scorer(view_area=area).embed(images, count).numpy() for area in areas]
    assert np.abs(each[0] - each[1]).max() > 0.1
    total = np.sum(each, axis=0)
    # The sum of three vectors of length 1, rounded to float32 on both sides.
    np.testing.assert_allclose(several, total / np.linalg.norm(total, axis=-1, keepdims=True), atol=1e-6)


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
    fitting.fit_gaussians(scorer, images, labels)
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
        fitting.fit_gaussians(scorer, draw_images(3), np.zeros(3, int))  # no image of class 1
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
    found = all_distances(scorer, data)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_images_give_no_distances_and_scores():
    scorer = fitted_scorer(views=4)
    assert all_distances(scorer, draw_images(0)).shape == (0, 4, 2)
    assert scorer.scores(draw_images(0)).shape == (0,)


@pytest.mark.parametrize("method", ["weighted", "sum", "min"])
def test_scores_without_evidence_are_those_of_the_paper(method):
    scorer, images = fitted_scorer(method=method, evidence=False), draw_images(5, seed=1)
    assert not scorer.is_scaled
    expected, classes = self_ensemble(all_distances(scorer, images), method)
    found = scorer.evaluate_images(images)
    np.testing.assert_allclose(found["score"], expected, rtol=1e-6)  # a graph may fuse the sum of eight
    np.testing.assert_array_equal(found["nearest_class"], classes)


def test_the_graph_is_traced_once():
    """For all batches of the same size, also after another fit."""
    traces = []

    class Traced(tf.keras.layers.Layer):
        def call(self, images):
            traces.append(images.shape)
            return tf.reduce_mean(images, [1, 2])

    inputs = tf.keras.layers.Input((SIZE, SIZE, 3))
    network = tf.keras.Model(inputs, Traced()(inputs))
    scorer = SelfEnsembleScorer(network, ScoringConfig(scoring_batch_size=4, shrinkage=0.5), 1)
    counts = []
    for seed in range(2):
        images = draw_images(8, seed)
        fitting.fit_gaussians(scorer, images, np.zeros(8, int))
        fitting.fit_units(scorer, images, images)
        scorer.scores(images)
        counts.append(len(traces))
    assert counts[1] == counts[0] > 0


# Units and evidence.


def parts_by_definition(scorer, images):
    """Return the distance and the rotation evidence of images, from embeddings and the library's own functions."""
    gaussians = ClassConditionalGaussians(scorer.means, scorer.whitenings)
    to_all = gaussians.distances_to_all(scorer.embed(images, scorer.view_count)).numpy()
    own = np.stack([to_all[:, view, turn] for view, turn in enumerate(scorer.rotations)], 1)
    distance, classes = self_ensemble(own, scorer.config.method)
    return {
        "distance": distance.numpy(),
        "evidence": rotation_evidence(to_all, scorer.rotations, classes).numpy(),
    }


def units_of(scorer):
    return dict(zip(("distance", "evidence", "image", "texture"), scorer.standardization.numpy(), strict=True))


@pytest.mark.parametrize("views_", [0, 8, 4])
@pytest.mark.parametrize("method", ["weighted", "sum"])
def test_units_are_mean_and_spread_of_the_held_out_images(method, views_):
    scorer = make_scorer(1, method=method, views=views_)  # several classes have no evidence, and so no units
    images, held_out = draw_images(30), draw_images(11, seed=5)
    fitting.fit_gaussians(scorer, images, np.zeros(30, int))
    fitting.fit_units(scorer, held_out, images)
    for name, values in parts_by_definition(scorer, held_out).items():
        # Other kernels change the rounding of embeddings, which the inverse covariance magnifies.
        np.testing.assert_allclose(units_of(scorer)[name], [values.mean(), values.std()], rtol=1e-3)
    np.testing.assert_array_equal(units_of(scorer)["texture"], [0.0, 1.0])  # there is none


def image_score(parts, units):
    """Return distance and half of the evidence, each in its units."""
    scaled = {name: (parts[name] - units[name][0]) / units[name][1] for name in parts}
    return scaled["distance"] + 0.5 * scaled["evidence"]


def test_the_score_is_distance_and_half_of_the_evidence_in_units():
    scorer, images = fitted_scorer(1), draw_images(9, seed=1)
    parts, units = parts_by_definition(scorer, images), units_of(scorer)
    expected = image_score(parts, units)
    # Units are of the order of 1; the evidence, a difference of squares, has the largest rounding.
    np.testing.assert_allclose(scorer.scores(images), expected, atol=1e-3)
    assert np.corrcoef(expected, parts["distance"])[0, 1] < 0.9999  # the evidence matters


def test_scores_of_the_held_out_images_have_the_mean_zero():
    scorer = make_scorer(1)
    images, held_out = draw_images(30), draw_images(20, seed=5)
    fitting.fit_gaussians(scorer, images, np.zeros(30, int))
    fitting.fit_units(scorer, held_out, images)
    assert np.mean(scorer.scores(held_out)) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize(("held_out", "count"), [(5, 5), (4, 200), (0, 200)])
def test_training_images_give_the_units_if_there_are_too_few_others(held_out, count):
    """No more than the first 200 of them, which is enough for a mean and a spread."""
    scorer, images, others = make_scorer(1), draw_images(230), draw_images(held_out, seed=5)
    fitting.fit_gaussians(scorer, images, np.zeros(230, int))
    fitting.fit_units(scorer, others, images)
    used = others if count == held_out else images[:count]
    distance = parts_by_definition(scorer, used)["distance"]
    np.testing.assert_allclose(units_of(scorer)["distance"], [distance.mean(), distance.std()], rtol=1e-3)


def test_equal_held_out_images_give_finite_scores():
    scorer, images = make_scorer(1), draw_images(30)
    fitting.fit_gaussians(scorer, images, np.zeros(30, int))
    fitting.fit_units(scorer, np.repeat(images[:1], 8, 0), images)
    assert (units_of(scorer)["distance"][1], units_of(scorer)["evidence"][1]) > (0.0, 0.0)
    assert np.isfinite(scorer.scores(images)).all()


def test_a_score_of_one_part_needs_no_units():
    scorer = fitted_scorer(evidence=False)
    np.testing.assert_array_equal(scorer.standardization, np.zeros((4, 2)))


# Several classes.


def log_determinants(whitenings):
    """Return the log-determinants [R, C] of the covariances."""
    return -2.0 * np.linalg.slogdet(whitenings.numpy().astype(np.float64))[1]


@pytest.mark.parametrize("method", ["weighted", "sum", "min"])
@pytest.mark.parametrize("knows_rotations", [True, False])
def test_several_classes_are_compared_by_likelihood(knows_rotations, method):
    scorer = make_scorer(3, knows_rotations, method=method)
    images, labels = draw_images(60), np.arange(60) % 3
    images[labels == 1] //= 4  # an embedding of less noise
    fitting.fit_gaussians(scorer, images, labels)
    assert (scorer.evidence, scorer.is_scaled) == (False, False)
    new = draw_images(9, seed=1)
    distances = scorer.distances(new).numpy().astype(np.float64)
    determinants = log_determinants(scorer.whitenings)[scorer.rotations]  # [V, C]
    squares = distances**2 + determinants - determinants.min(1, keepdims=True)
    expected, classes = self_ensemble(np.sqrt(squares), method)
    outputs = scorer.score_batch(new)
    # The distances of six dimensions are about 2.4; determinants come from logarithms of float32.
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-4)
    np.testing.assert_array_equal(outputs["nearest_class"], classes)
    np.testing.assert_allclose(outputs["distances"], distances, rtol=1e-4)
    assert np.abs(self_ensemble(distances, method)[0] - expected).max() > 0.1  # the determinants matter


# A network that knows no rotations.


@pytest.mark.parametrize(("views_", "count"), [(0, 2), (1, 1), (2, 2)])
def test_a_network_without_rotations_has_one_gaussian_per_class_and_no_rotation_evidence(views_, count):
    images, labels = draw_images(31), np.arange(31) % 2
    scorer = make_scorer(2, knows_rotations=False, views=views_)
    fitting.fit_gaussians(scorer, images, labels)
    assert (scorer.view_count, scorer.evidence, scorer.is_scaled) == (count, False, False)
    assert scorer.means.shape == (1, 2, DIMENSION)
    # The Gaussians are fitted to the upright image, plain and flipped.
    embeddings = scorer.embed(images, 2).numpy().reshape(-1, DIMENSION)
    batch = embeddings, np.repeat(labels, 2), np.zeros(62, int)
    expected = ClassConditionalGaussians.fit_batches([batch], num_classes=2, num_rotations=1)
    np.testing.assert_allclose(scorer.means, expected.means, atol=1e-6)
    tests = draw_images(5, seed=1)
    distances = expected.distances(scorer.embed(tests, count), [0] * count)
    np.testing.assert_allclose(scorer.distances(tests), distances, rtol=1e-3)
    determinants = log_determinants(scorer.whitenings)[[0] * count]
    compared = np.sqrt(distances**2 + determinants - determinants.min(1, keepdims=True))
    np.testing.assert_allclose(scorer.scores(tests), self_ensemble(compared)[0], rtol=1e-3)


def test_automatic_views_are_eight_with_rotations():
    assert make_scorer(views=0).view_count == 8
    assert make_scorer(views=0).rotations == [0, 0, 1, 1, 2, 2, 3, 3]


# Local score.

LARGE = 24  # pixels; the texture has more of them than the network


def texture_scorer(score, **options):
    return fitted_scorer(texture=TextureDescriptor(LARGE, 3), score=score, **options)


def texture_distances(scorer, images):
    """Return the distances of the descriptors to every class, float32 [n, C]."""
    gaussians = ClassConditionalGaussians(scorer.texture_means, scorer.texture_whitenings)
    return gaussians.distances(scorer.texture(images), np.zeros(len(images), int)).numpy()


@pytest.mark.parametrize("evidence", [True, False])
def test_a_local_score_needs_no_network(evidence):
    scorer = texture_scorer("local", network=False, evidence=evidence)
    images = draw_images(5, 1, (LARGE, LARGE, 3))
    assert (scorer.network_size, scorer.image_size, scorer.view_count) == (0, LARGE, 1)
    found = scorer.evaluate_images(images)
    distances = texture_distances(scorer, images)
    determinants = log_determinants(scorer.texture_whitenings)[0]
    expected = np.sqrt(distances**2 + determinants - determinants.min()) if evidence else distances
    np.testing.assert_allclose(found["score"], expected.min(1), rtol=1e-3)
    np.testing.assert_array_equal(found["nearest_class"], expected.argmin(1))
    np.testing.assert_allclose(found["distances"], distances[:, None], rtol=1e-3)
    assert scorer.embed(images, 1).shape == (5, 1, scorer.texture.dimension)
    assert not [name for name in scorer.state() if name.startswith("network") or name == "means"]


@pytest.mark.parametrize("score", ["local", "both"])
def test_no_images_give_no_scores_with_a_texture(score):
    scorer = texture_scorer(score, network=score != "local")
    found = scorer.evaluate_images(draw_images(0, 0, (LARGE, LARGE, 3)))
    assert {name: values.shape[0] for name, values in found.items()} == {"score": 0, "nearest_class": 0, "distances": 0}


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("evidence", [True, False])
def test_both_scores_grow_with_every_part(evidence, classes, monkeypatch):
    """Whatever the way in which they are combined."""
    scorer = texture_scorer("both", num_classes=classes, evidence=evidence)
    assert scorer.is_scaled
    images = draw_images(4, 1, (LARGE, LARGE, 3))
    distances, nearest, parts = scorer.measure_parts(tf.constant(images))
    names = ["texture", "distance"] + ["evidence"] * (evidence and classes == 1)
    assert set(parts) == set(names)
    before = scorer.score_batch(images)["score"].numpy()
    assert np.isfinite(before).all()
    for name in names:
        # A part that is 1000 spreads larger dominates any combination.
        larger = {**parts, name: parts[name] + 1000.0 * units_of(scorer)[name][1]}
        monkeypatch.setattr(scorer, "measure_parts", lambda images, larger=larger: (distances, nearest, larger))
        assert (scorer.score_batch(images)["score"].numpy() > before + 1.0).all(), name


def test_units_of_both_scores_are_those_of_the_held_out_images():
    scorer = make_scorer(1, texture=TextureDescriptor(LARGE, 3), score="both")
    images, held_out = draw_images(30, 0, (LARGE, LARGE, 3)), draw_images(12, 5, (LARGE, LARGE, 3))
    fitting.fit_gaussians(scorer, images, np.zeros(30, int))
    fitting.fit_units(scorer, held_out, images)
    units = units_of(scorer)
    texture = texture_distances(scorer, held_out).min(1)
    np.testing.assert_allclose(units["texture"], [texture.mean(), texture.std()], rtol=1e-3)
    parts = parts_by_definition(scorer, held_out)
    image = image_score(parts, units)
    np.testing.assert_allclose(units["image"], [image.mean(), image.std()], rtol=1e-3, atol=1e-3)


def test_the_network_sees_images_by_way_of_the_stored_size():
    """An image has the same embedding, whatever its size, once it is stored at the size of the texture."""
    scorer = make_scorer(texture=TextureDescriptor(LARGE, 3), score="both")
    images = draw_images(3, shape=(50, 40, 3))
    stored = views.prepare(images, LARGE)
    np.testing.assert_array_equal(scorer.embed(images, 8), scorer.embed(stored, 8))
    network_alone = make_scorer().embed(views.prepare(stored, SIZE), 8)
    np.testing.assert_array_equal(scorer.embed(stored, 8), network_alone)


# Memory.


@pytest.mark.parametrize(
    ("free", "size"),
    [
        (None, 128),  # the system does not tell
        (10**12, 128),
        (2 * 8 * 4 * 144 * 10, 10),  # the largest output, 3 * 3 * 4 float32 numbers, four times; half may be used
        (1, 1),
    ],
)
def test_batches_are_smaller_if_memory_is_short(free, size, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: free)
    assert make_scorer().images_per_batch(8) == parallel.per_thread(size)


def test_a_texture_takes_memory(monkeypatch):
    texture = TextureDescriptor(LARGE, 3)
    # All squared components of a patch around every pixel, twice, as float32.
    assert texture.bytes_per_image == 2 * 4 * LARGE**2 * (7 * 7 * 3)
    monkeypatch.setattr(memory, "available", lambda: 2 * 10 * texture.bytes_per_image)
    assert make_scorer(texture=texture, network=False, score="local").images_per_batch(1) == parallel.per_thread(10)


def test_small_batches_give_the_same_scores(monkeypatch):
    scorer, images = texture_scorer("both"), draw_images(9, 1, (LARGE, LARGE, 3))
    expected = scorer.scores(images)
    monkeypatch.setattr(memory, "available", lambda: 1)
    # Other kernels; the units magnify the rounding of distances.
    np.testing.assert_allclose(scorer.scores(images), expected, atol=1e-2)


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


@pytest.mark.parametrize("score", ["local", "both"])
def test_state_round_trip_with_a_texture(score):
    scorer, images = texture_scorer(score, network=score == "both"), draw_images(5, 1, (LARGE, LARGE, 3))
    other = make_scorer(2, texture=TextureDescriptor(LARGE, 3), score=score, network=score == "both")
    state = scorer.state()
    assert {"texture_means", "texture_whitenings", "standardization", "texture/0000"} <= set(state)
    other.set_state(state)
    np.testing.assert_array_equal(other.scores(images), scorer.scores(images))


def test_a_state_without_units_is_enough_for_a_score_of_one_part():
    """Detectors of the first development version have none."""
    scorer, images = fitted_scorer(1, evidence=False), draw_images(5, seed=1)
    state = scorer.state()
    del state["standardization"]
    other = make_scorer(1, evidence=False)
    other.set_state(state)
    np.testing.assert_array_equal(other.scores(images), scorer.scores(images))
    with pytest.raises(ValueError, match=r"standardization should have the shape \(4, 2\). Received: nothing"):
        make_scorer(1).set_state(state)


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
    for name in ("means", "whitenings", "standardization", "threshold"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(scorer, name))
    copy.threshold.assign(2.5)
    assert float(scorer.threshold) == 1.5


def test_the_global_dtype_policy_has_no_effect():
    images, expected = draw_images(5, seed=1), fitted_scorer().scores(draw_images(5, seed=1))
    network, before = make_network(), tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        scorer = SelfEnsembleScorer(network, ScoringConfig(), 2)
        fitting.fit_gaussians(scorer, draw_images(30), np.arange(30) % 2)
        fitting.fit_units(scorer, draw_images(20, seed=7), draw_images(30))
        np.testing.assert_array_equal(scorer.scores(images), expected)
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
