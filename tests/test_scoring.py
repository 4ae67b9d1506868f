"""Scores, likelihood and rotation evidence, compared with golden values, sums by hand and loops."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import scoring
from mcl_tf.errors import UsageError
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.scoring import METHODS, ensembles, likelihood_distances, rotation_evidence, self_ensemble
from mcl_tf.views import view_flips, view_rotations

GOLDEN = pathlib.Path(__file__).parent / "golden" / "sei_8_views.npz"


@pytest.fixture(scope="module")
def golden():
    """Golden scores by name, and the distances [images, 8, 10] that the library computes for their embeddings."""
    with np.load(GOLDEN) as file:
        values = {name: file[name] for name in file}
    train, test = values["train"], values["test"]
    turns, classes, count, dimension = train.shape
    rotations, labels, _ = np.meshgrid(range(turns), range(classes), range(count), indexing="ij")
    fitted = ClassConditionalGaussians.fit(
        train.reshape(-1, dimension), labels.ravel(), rotations.ravel(), num_classes=classes, shrinkage=None
    )
    return values, fitted.distances(test, view_rotations(8))


@pytest.mark.parametrize(
    ("method", "name"), [("weighted", "score_wa"), ("sum", "score_mean"), ("mean", "score_mean"), ("min", "score_min")]
)
def test_scores_match_golden_values(golden, method, name):
    # The golden distances were computed in float32, too; a covariance of condition number 1e3 magnifies 1e-7 to 1e-4.
    values, distances = golden
    scores, classes = self_ensemble(distances, method)
    np.testing.assert_allclose(scores, values[name], rtol=1e-4)
    assert classes.shape == scores.shape == (12,)


@pytest.mark.parametrize(("own", "counts"), [(8, (1, 2, 4, 8)), (4, (1, 4)), (2, (1, 2)), (1, (1,))])
def test_ensembles_have_the_views_that_an_image_has_with_their_number(own, counts, rng):
    distances = rng.uniform(1.0, 9.0, (5, own, 2))
    turns = list(zip(view_rotations(own), view_flips(own), strict=True))
    found = ensembles(distances)
    assert list(found) == [(count, method) for count in counts for method in METHODS]
    for (count, method), scores in found.items():
        chosen = [turns.index(turn) for turn in zip(view_rotations(count), view_flips(count), strict=True)]
        np.testing.assert_array_equal(scores, self_ensemble(distances[:, chosen], method)[0])


# Three images, two views, two classes: the distance of view v of image n to class c is D[n][v][c].
D = [
    [[1.0, 3.0], [4.0, 3.0]],
    [[2.0, 1.0], [2.0, 9.0]],
    [[6.0, 4.0], [2.0, 4.0]],
]


@pytest.mark.parametrize(
    ("method", "scores", "classes"),
    [
        # First image: class 0 has 2 / (1/1 + 1/4) = 1.6, class 1 has 2 / (1/3 + 1/3) = 3: class 0.
        # Second: class 0 has 2 / (1/2 + 1/2) = 2, class 1 has 2 / (1 + 1/9) = 1.8: class 1.
        # Third: 2 / (1/6 + 1/2) = 3 and 2 / (1/4 + 1/4) = 4: class 0.
        ("weighted", [1.6, 1.8, 3.0], [0, 1, 0]),
        # First: 1 + 4 = 5 and 3 + 3 = 6: class 0. Second: 2 + 2 = 4 and 1 + 9 = 10: class 0.
        # Third: 6 + 2 = 8 and 4 + 4 = 8; the first of equal classes.
        ("sum", [5.0, 4.0, 8.0], [0, 0, 0]),
        ("mean", [5.0, 4.0, 8.0], [0, 0, 0]),
        # First: 1 of class 0 is the smallest of 1, 4, 3, 3. Second: 1 of class 1 is the smallest of 2, 2, 1, 9.
        # Third: 2 of class 0, though its other view is nearer to class 1.
        ("min", [1.0, 1.0, 2.0], [0, 1, 0]),
    ],
)
def test_scores_by_hand(method, scores, classes):
    found_scores, found_classes = self_ensemble(D, method)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-6)
    np.testing.assert_array_equal(found_classes, classes)
    assert found_scores.dtype == tf.float32
    assert found_classes.dtype == tf.int32


def test_the_default_weights_distances_by_their_inverse():
    # The average of the paper: weights 1/d that sum to one, times d.
    distances = np.random.default_rng(0).uniform(0.5, 9.0, size=(7, 8, 3))
    weights = 1.0 / distances / (1.0 / distances).sum(axis=1, keepdims=True)
    by_class = (weights * distances).sum(axis=1)
    scores, classes = self_ensemble(distances)
    np.testing.assert_allclose(scores, by_class.min(axis=1), rtol=1e-5)  # float32 sums of eight
    np.testing.assert_array_equal(classes, by_class.argmin(axis=1))


@pytest.mark.parametrize("method", scoring.METHODS)
def test_the_score_of_one_view_is_its_smallest_distance(method):
    distances = np.array([[[4.0, 2.0, 3.0]], [[0.5, 7.0, 6.0]]])
    scores, classes = self_ensemble(distances, method)
    np.testing.assert_allclose(scores, [2.0, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(classes, [1, 0])


@pytest.mark.parametrize("method", scoring.METHODS)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32"])
def test_scores_of_distances_of_other_dtypes(method, dtype):
    scores, classes = self_ensemble(np.array(D).astype(dtype), method)
    expected, _ = self_ensemble(D, method)
    np.testing.assert_array_equal(scores, expected)  # small integers are exact in all of them
    assert (scores.dtype, classes.dtype) == (tf.float32, tf.int32)


@pytest.mark.parametrize("method", scoring.METHODS)
def test_a_distance_of_zero_gives_a_finite_score(method):
    # The first image lies on the mean of class 1 in one view, the second image in both views.
    distances = [[[3.0, 0.0], [3.0, 5.0]], [[2.0, 0.0], [2.0, 0.0]]]
    scores, classes = self_ensemble(distances, method)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[1], 0.0, atol=1e-11)
    assert classes[1] == 1
    if method != "sum":  # the sum of the first image is 5
        np.testing.assert_allclose(scores[0], 0.0, atol=1e-11)


@pytest.mark.parametrize("method", ["median", "", None])
def test_unknown_methods_are_refused(method):
    with pytest.raises(UsageError, match="weighted, sum, min. Received: ") as error:
        self_ensemble(D, method)
    assert repr(method) in str(error.value)


@pytest.mark.parametrize("method", scoring.METHODS)
def test_methods_in_a_graph(method):
    traced = tf.function(lambda d: self_ensemble(d, method), autograph=False)
    np.testing.assert_allclose(traced(tf.constant(D))[0], self_ensemble(D, method)[0], rtol=1e-6)


# Rotation evidence.


def evidence_by_loops(distances, rotations, classes):
    """Return the evidence of every image, from its definition in float64."""
    results = []
    for image, label in zip(np.asarray(distances, np.float64), classes, strict=True):
        differences = []
        for view, rotation in enumerate(rotations):
            squares = [image[view, other, label] ** 2 for other in range(image.shape[1])]
            differences.append(squares[rotation] - sum(squares) / len(squares))
        results.append(sum(differences) / len(differences))
    return results


@pytest.mark.parametrize("views", [8, 4, 2, 1])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("graph", [False, True])
def test_rotation_evidence_matches_loops(graph, classes, views, rng):
    distances = rng.uniform(1.0, 9.0, (6, views, 4, classes)).astype(np.float32)
    nearest, rotations = rng.integers(0, classes, 6).astype(np.int32), view_rotations(views)
    function = tf.function(rotation_evidence, autograph=False) if graph else rotation_evidence
    found = function(tf.constant(distances), rotations, tf.constant(nearest))
    assert (found.dtype, found.shape) == (tf.float32, (6,))
    # Differences of squares up to 81, each with the rounding of float32.
    np.testing.assert_allclose(found, evidence_by_loops(distances, rotations, nearest), atol=1e-4)


def test_rotation_evidence_by_hand():
    # One view of rotation 1, one class. Squares 9, 1, 4 and 4 have the mean 4.5: 1 - 4.5. Of the second image, the own
    # rotation has the largest of 1, 9, 1 and 1: 9 - 3.
    distances = np.array([[[[3.0], [1.0], [2.0], [2.0]]], [[[1.0], [3.0], [1.0], [1.0]]]])
    np.testing.assert_allclose(rotation_evidence(distances, [1], [0, 0]), [-3.5, 6.0], rtol=1e-6)


def test_images_whose_rotations_are_not_recognized_have_more_evidence(rng):
    rotations = view_rotations(8)
    unclear = rng.uniform(4.0, 5.0, (1, 8, 4, 1))
    clear = unclear.copy()
    clear[0, range(8), rotations] = 1.0
    found = rotation_evidence(np.concatenate([clear, unclear]), rotations, [0, 0])
    assert found[0] < -9.0  # 1 - (1 + 3 * 16) / 4 at most
    assert abs(found[1]) < 9.0


def test_equal_distances_to_all_rotations_are_no_evidence():
    np.testing.assert_allclose(rotation_evidence(np.full((2, 8, 4, 1), 3.0), view_rotations(8), [0, 0]), 0.0)


def test_no_images_have_no_evidence():
    assert rotation_evidence(np.zeros((0, 8, 4, 2)), view_rotations(8), np.zeros(0, np.int32)).shape == (0,)


# Several classes by likelihood.


@pytest.mark.parametrize("graph", [False, True])
def test_squares_are_twice_the_negative_log_likelihood_up_to_a_constant_of_the_view(graph, rng):
    """The densities are SciPy's; dimensions are few, so that nothing is lost in float32."""
    stats = pytest.importorskip("scipy.stats")
    points, dimension = rng.normal(size=(5, 2, 3)), 3
    factors = rng.normal(size=(2, 4, dimension, dimension)) * np.array([0.5, 1.0, 2.0, 3.0])[:, None, None]
    covariances = factors @ np.swapaxes(factors, -1, -2) + np.eye(dimension)
    distances, densities = np.zeros((5, 2, 4)), np.zeros((5, 2, 4))
    for image, view, label in np.ndindex(5, 2, 4):
        point, covariance = points[image, view], covariances[view, label]
        distances[image, view, label] = np.sqrt(point @ np.linalg.solve(covariance, point))
        densities[image, view, label] = stats.multivariate_normal(np.zeros(dimension), covariance).logpdf(point)
    function = tf.function(likelihood_distances, autograph=False) if graph else likelihood_distances
    found = function(tf.constant(distances), tf.constant(np.linalg.slogdet(covariances)[1]))
    assert (found.dtype, found.shape) == (tf.float32, (5, 2, 4))
    differences = found.numpy() ** 2 + 2.0 * densities
    # The same for all images and classes of a view; squares are up to 100.
    np.testing.assert_allclose(differences, np.broadcast_to(differences[:1, :, :1], (5, 2, 4)), atol=1e-4)


def test_wide_classes_do_not_take_the_images_of_narrow_ones():
    # Of two classes in 10 dimensions, the second is twice as wide: its log-determinant is 20 log 2 = 13.9 larger.
    distances = tf.constant([[[3.2, 2.0]], [[6.0, 2.0]]])
    found = likelihood_distances(distances, [[-20.0, -6.1]]).numpy()
    np.testing.assert_allclose(found**2, [[[10.24, 17.9]], [[36.0, 17.9]]], rtol=1e-5)
    np.testing.assert_array_equal(self_ensemble(found)[1], [0, 1])
    np.testing.assert_array_equal(self_ensemble(distances)[1], [1, 1])


def test_equal_determinants_leave_the_distances(rng):
    distances = rng.uniform(1.0, 9.0, (3, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(likelihood_distances(distances, np.full((8, 2), -40.0)), distances, rtol=1e-6)
