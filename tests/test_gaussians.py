"""The Gaussians, compared with NumPy, scikit-learn and distances computed one by one."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.covariance import LedoitWolf

from mcl_tf import gaussians
from mcl_tf.errors import UsageError
from mcl_tf.gaussians import ClassConditionalGaussians

JITTER = 1e-9  # added to every diagonal, as in the authors' code


def draw(seed, per_group=30, dimension=6, classes=2, offset=0.0, spread=1.0):
    """Draw correlated embeddings of every (class, rotation) pair, in random order, with labels and rotations."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), 4 * per_group)
    rotations = np.tile(np.repeat(np.arange(4), per_group), classes)
    mixing = rng.normal(size=(classes, 4, dimension, dimension))
    centre = rng.normal(size=(classes, 4, dimension))
    x = np.einsum("nd,nde->ne", rng.normal(size=(len(labels), dimension)), mixing[labels, rotations])
    x = offset + spread * (x + centre[labels, rotations])
    order = rng.permutation(len(labels))
    return x[order].astype(np.float32), labels[order], rotations[order]


def shrunk(x, shrinkage):
    """Return the covariance of a group by definition: that of numpy.cov or of scikit-learn."""
    dimension = x.shape[1]
    if shrinkage == "ledoit_wolf":
        covariance = LedoitWolf().fit(x).covariance_
    else:
        s, covariance = shrinkage or 0.0, np.atleast_2d(np.cov(x, rowvar=False))
        covariance = (1.0 - s) * covariance + s * np.trace(covariance) / dimension * np.eye(dimension)
    return covariance + JITTER * np.eye(dimension)


def direct_distance(z, x, shrinkage):
    """Return sqrt((z - mean)' S^-1 (z - mean)), computed in float64."""
    x = x.astype(np.float64)
    centred = z.astype(np.float64) - x.mean(axis=0)
    return np.sqrt(centred @ np.linalg.solve(shrunk(x, shrinkage), centred))


def distances_one_by_one(fitted, embeddings, rotations):
    """Return the distances [n, C] of single embeddings, computed in float64 from means and whitenings."""
    embeddings, means, whitenings = (np.float64(x) for x in (embeddings, fitted.means, fitted.whitenings))
    return np.array(
        [
            [np.linalg.norm((z - means[k, c]) @ whitenings[k, c]) for c in range(means.shape[1])]
            for z, k in zip(embeddings, rotations, strict=True)
        ]
    ).reshape(len(embeddings), means.shape[1])


def fit_in_batches(data, sizes, shrinkage="ledoit_wolf"):
    """Fit to the data in batches of the given sizes; the last batch has the rest."""
    parts = np.split(np.arange(len(data[0])), np.cumsum(sizes))
    batches = ([column[part] for column in data] for part in parts)
    return ClassConditionalGaussians.fit_batches(batches, num_classes=int(data[1].max()) + 1, shrinkage=shrinkage)


def assert_same_gaussians(found, expected, rtol=2e-5):
    # Sums of float64 in another order, rounded to float32; the covariances are well-conditioned.
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-6, atol=1e-6)
    scale = np.abs(expected.whitenings).max()
    np.testing.assert_allclose(found.whitenings, expected.whitenings, rtol=0, atol=rtol * scale)


# A covariance of no more embeddings than dimensions is singular without shrinkage: the tests of degenerate embeddings
# below check its distances.
FITS = [(30, 6, s) for s in (None, 0.0, 0.1, 1.0, "ledoit_wolf")]
FITS += [(40, 1, s) for s in (None, 0.1, "ledoit_wolf")]
FITS += [(count, dimension, s) for count, dimension in ((8, 12), (2, 3)) for s in (0.1, 1.0, "ledoit_wolf")]


@pytest.mark.parametrize(("per_group", "dimension", "shrinkage"), FITS)
def test_fit_gives_the_mean_and_covariance_of_every_group(per_group, dimension, shrinkage):
    # The inverse of W W' is the covariance.
    x, labels, rotations = draw(0, per_group, dimension)
    fitted = ClassConditionalGaussians.fit(x, labels, rotations, num_classes=2, shrinkage=shrinkage)
    assert fitted.means.shape == (4, 2, dimension)
    assert fitted.whitenings.shape == (4, 2, dimension, dimension)
    assert fitted.means.dtype == fitted.whitenings.dtype == np.float32
    for rotation in range(4):
        for label in range(2):
            group = x[(labels == label) & (rotations == rotation)].astype(np.float64)
            np.testing.assert_allclose(fitted.means[rotation, label], group.mean(axis=0), rtol=1e-6, atol=1e-6)
            whitening = fitted.whitenings[rotation, label].astype(np.float64)
            covariance, expected = np.linalg.inv(whitening @ whitening.T), shrunk(group, shrinkage)
            # The condition number, here up to 1e3, multiplies the rounding of float32 whitenings, 1e-7.
            assert np.abs(covariance - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("shrinkage", [None, 0.3, "ledoit_wolf"])
@pytest.mark.parametrize("classes", [1, 3])
def test_distances_match_the_definition(classes, shrinkage):
    x, labels, rotations = draw(1, classes=classes)
    fitted = ClassConditionalGaussians.fit(x, labels, rotations, num_classes=classes, shrinkage=shrinkage)
    rng = np.random.default_rng(2)
    z, turns = rng.normal(size=(23, 6)).astype(np.float32), rng.integers(0, 4, 23)
    assert len(set(turns)) == 4
    found = fitted.distances(z, turns)
    assert found.shape == (23, classes)
    assert found.dtype == tf.float32
    for i, turn in enumerate(turns):
        for label in range(classes):
            group = x[(labels == label) & (rotations == turn)]
            # The condition number multiplies the rounding of float32 differences and products, 1e-7.
            np.testing.assert_allclose(found[i, label], direct_distance(z[i], group, shrinkage), rtol=1e-4)


ROTATIONS = {
    "8 views": [0, 0, 1, 1, 2, 2, 3, 3],
    "4 views": [0, 1, 2, 3],
    "1 view": [0],
    "consecutive rotations from 1": [1, 1, 2, 2],
    "missing rotation": [0, 0, 2, 2, 3, 3],
    "one rotation": [3, 3, 3],
    "alternating": [2, 0, 3, 1, 2, 0, 3, 1],
    "descending": [3, 3, 2, 2, 1, 1, 0, 0],
    "unequal counts": [0, 1, 1, 1, 2, 3, 3],
    "unequal counts in random order": [3, 1, 0, 0, 2, 3, 1, 1, 2],
    "unequal counts without rotation 2": [1, 0, 3, 1, 1],
    "none": [],
}
BATCHES = {"no batch": (), "batch": (5,), "two batch dimensions": (2, 3), "batch of 1": (1,), "empty batch": (0,)}


@pytest.mark.parametrize("classes", [1, 2, gaussians._MAX_CLASSES_AT_ONCE + 1])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("rotations", ROTATIONS.values(), ids=ROTATIONS)
def test_distances_match_distances_one_by_one(rotations, batch, classes):
    fitted = ClassConditionalGaussians.fit(*draw(3, classes=classes), num_classes=classes)
    z = np.random.default_rng(4).normal(size=(*batch, len(rotations), 6)).astype(np.float32)
    found = fitted.distances(z, rotations)
    assert found.shape == (*batch, len(rotations), classes)
    assert found.dtype == tf.float32
    count = int(np.prod(batch))
    expected = distances_one_by_one(fitted, z.reshape(-1, 6), np.tile(np.array(rotations, int), count))
    # Differences of float32 numbers around 1; the whitenings are the same on both sides.
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotations", [[0, 0, 1, 1, 2, 2, 3, 3], [3, 1, 0, 0, 2]], ids=["views", "any order"])
def test_distances_in_a_graph_with_a_batch_of_unknown_size(rotations):
    fitted = ClassConditionalGaussians.fit(*draw(6), num_classes=2)
    signature = [tf.TensorSpec([None, len(rotations), 6], tf.float32)]
    distances = tf.function(lambda z: fitted.distances(z, rotations), signature, autograph=False)
    for count in (0, 1, 7):
        z = np.random.default_rng(7).normal(size=(count, len(rotations), 6)).astype(np.float32)
        np.testing.assert_allclose(distances(z), fitted.distances(z, rotations), rtol=1e-5)


def test_distances_of_variables_follow_their_values():
    fitted = ClassConditionalGaussians.fit(*draw(3), num_classes=2)
    means, whitenings = tf.Variable(tf.zeros([4, 2, 6])), tf.Variable(tf.zeros([4, 2, 6, 6]))
    z = np.random.default_rng(4).normal(size=(4, 6)).astype(np.float32)
    with_variables = ClassConditionalGaussians(means, whitenings)
    np.testing.assert_array_equal(with_variables.distances(z, range(4)), np.zeros((4, 2)))
    means.assign(fitted.means)
    whitenings.assign(fitted.whitenings)
    np.testing.assert_array_equal(with_variables.distances(z, range(4)), fitted.distances(z, range(4)))


def test_distances_by_hand():
    # Means 0 and variances 4 and 1 without covariance: the distance of (2, 1) is sqrt(4 / 4 + 1 / 1) = sqrt(2). In
    # rotation 1, whose mean is (2, 0), it is 1. The jitter changes both by a share of 1e-9.
    points = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]]) * np.sqrt(3.0 / 4.0)
    x = np.concatenate([points, points + [2.0, 0.0], points, points])
    fitted = ClassConditionalGaussians.fit(x, [0] * 16, np.repeat(range(4), 4), num_classes=1, shrinkage=None)
    np.testing.assert_allclose(fitted.distances([[2.0, 1.0]] * 2, [0, 1]), [[np.sqrt(2.0)], [1.0]], rtol=1e-6)


@pytest.mark.parametrize("classes", [2, gaussians._MAX_CLASSES_AT_ONCE + 1], ids=["at-once", "by-rotation"])
def test_mahalanobis_of_all_rotations(classes):
    fitted = ClassConditionalGaussians.fit(*draw(6, classes=classes), num_classes=classes)
    z = np.random.default_rng(8).normal(size=(4, 5, 6)).astype(np.float32)
    found = tf.function(gaussians.mahalanobis, autograph=False)(z, fitted.means, fitted.whitenings)
    expected = fitted.distances(z.reshape(20, 6), np.repeat(range(4), 5))
    np.testing.assert_allclose(tf.reshape(found, [20, classes]), expected, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, gaussians._MAX_CLASSES_AT_ONCE + 1])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)], ids=str)
def test_distances_to_the_gaussians_of_all_rotations(batch, classes):
    fitted = ClassConditionalGaussians.fit(*draw(3, classes=classes), num_classes=classes)
    z = np.random.default_rng(4).normal(size=(*batch, 8, 6)).astype(np.float32)
    found = fitted.distances_to_all(z)
    assert found.shape == (*batch, 8, 4, classes)
    assert found.dtype == tf.float32
    for rotation in range(4):
        expected = distances_one_by_one(fitted, z.reshape(-1, 6), np.full(z.size // 6, rotation))
        # Differences of float32 numbers around 1; the whitenings are the same on both sides.
        np.testing.assert_allclose(found[..., rotation, :], expected.reshape(*batch, 8, classes), rtol=1e-5, atol=1e-5)


def test_distances_to_all_rotations_in_a_graph_with_a_batch_of_unknown_size():
    fitted = ClassConditionalGaussians.fit(*draw(6), num_classes=2)
    to_all = tf.function(fitted.distances_to_all, [tf.TensorSpec([None, 8, 6], tf.float32)], autograph=False)
    for count in (0, 1, 7):
        z = np.random.default_rng(7).normal(size=(count, 8, 6)).astype(np.float32)
        np.testing.assert_allclose(to_all(z), fitted.distances_to_all(z), rtol=1e-5)


def test_one_rotation_has_one_gaussian_per_class():
    x, labels, _ = draw(5)
    turns = np.zeros(len(x), int)
    fitted = ClassConditionalGaussians.fit_batches([(x, labels, turns)], num_classes=2, num_rotations=1)
    assert fitted.means.shape == (1, 2, 6)
    assert fitted.whitenings.shape == (1, 2, 6, 6)
    z = np.random.default_rng(2).normal(size=(9, 2, 6)).astype(np.float32)
    found = fitted.distances(z, [0, 0])
    for label in range(2):
        for i, view in np.ndindex(9, 2):
            expected = direct_distance(z[i, view], x[labels == label], "ledoit_wolf")
            np.testing.assert_allclose(found[i, view, label], expected, rtol=1e-4)  # as above
    np.testing.assert_allclose(fitted.distances_to_all(z)[:, :, 0], found, rtol=1e-5)


def test_rotations_beyond_the_number_of_rotations_are_refused():
    with pytest.raises(UsageError, match="rotations must be 0 to 0. Received: 0 to 3"):
        ClassConditionalGaussians.fit_batches([draw(5)], num_classes=2, num_rotations=1)


# Fits in batches.


@pytest.mark.parametrize("shrinkage", [None, 0.2, "ledoit_wolf"])
@pytest.mark.parametrize("sizes", [[1] * 240, [100, 1, 60], [240]], ids=["ones", "uneven", "one-batch"])
def test_fit_batches_equals_fit(sizes, shrinkage):
    data = draw(8)
    expected = ClassConditionalGaussians.fit(*data, num_classes=2, shrinkage=shrinkage)
    assert_same_gaussians(fit_in_batches(data, sizes, shrinkage), expected)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
def test_the_order_of_embeddings_has_no_effect(shrinkage):
    data = draw(9)
    expected = ClassConditionalGaussians.fit(*data, num_classes=2, shrinkage=shrinkage)
    order = np.random.default_rng(0).permutation(240)
    shuffled = [column[order] for column in data]
    assert_same_gaussians(fit_in_batches(shuffled, [7] * 34, shrinkage), expected)


def test_an_empty_batch_has_no_effect():
    data = draw(16)
    empty = np.zeros((0, 6)), np.zeros(0, int), np.zeros(0, int)
    found = ClassConditionalGaussians.fit_batches([empty, data, empty], num_classes=2)
    assert_same_gaussians(found, ClassConditionalGaussians.fit(*data, num_classes=2))


def test_fit_batches_reads_the_batches_once():
    consumed = []

    def batches():
        for number, part in enumerate(np.split(np.arange(240), 4)):
            consumed.append(number)
            yield [column[part] for column in draw(8)]

    ClassConditionalGaussians.fit_batches(batches(), num_classes=2)
    assert consumed == [0, 1, 2, 3]


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("first", [1, 240], ids=["batches", "at-once"])
def test_small_spread_around_a_large_mean(first, shrinkage):
    # Means near 1 and deviations near 1e-4: in float32, the square of a mean is off by 6e-8, six times the variance of
    # 1e-8. Sums that are not shifted first would be useless.
    x, labels, rotations = data = draw(11, offset=1.0, spread=1e-4)
    fitted = fit_in_batches(data, [first] * (240 // first), shrinkage)
    z = x[:40] + np.float32(1e-4)
    found = fitted.distances(z, rotations[:40]).numpy()
    for i in range(40):
        for label in range(2):
            group = x[(labels == label) & (rotations == rotations[i])]
            # Means in float32 are off by up to 6e-8, 6e-4 of a deviation.
            np.testing.assert_allclose(found[i, label], direct_distance(z[i], group, shrinkage), rtol=5e-3, atol=5e-3)


# Log-determinants.


@pytest.mark.parametrize("shrinkage", [None, 0.5, "ledoit_wolf"])
@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_log_determinants_are_those_of_the_covariances(spread, shrinkage):
    x, labels, rotations = draw(14, dimension=6, classes=3, spread=spread)
    fitted = ClassConditionalGaussians.fit(x, labels, rotations, num_classes=3, shrinkage=shrinkage)
    for turn, label in np.ndindex(4, 3):
        group = x[(labels == label) & (rotations == turn)].astype(np.float64)
        _, expected = np.linalg.slogdet(shrunk(group, shrinkage))
        # The logarithm of a rounded float32 is off by 6e-8, that of a whitening a little more; 12 of them are added.
        np.testing.assert_allclose(fitted.log_determinants()[turn, label], expected, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["normalized", "large"])
def test_log_determinants_of_fewer_embeddings_than_dimensions(scale):
    """However the covariance is factorized, its factor is triangular, and its diagonal has the determinant."""
    x, labels, rotations = draw(12, per_group=5, dimension=40, classes=1)
    x = scale * x / np.linalg.norm(x, axis=1, keepdims=True)
    fitted = ClassConditionalGaussians.fit(x, labels, rotations, num_classes=1, shrinkage=None)
    _, logarithms = np.linalg.slogdet(np.float64(fitted.whitenings))
    np.testing.assert_allclose(fitted.log_determinants(), -2.0 * logarithms, rtol=1e-4)


# Degenerate embeddings.


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.5, "ledoit_wolf"])
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["normalized", "large"])
def test_fewer_embeddings_than_dimensions(scale, shrinkage):
    # With large numbers, rounding leaves eigenvalues below -1e-9, with which a Cholesky factorization fails.
    x, labels, rotations = draw(12, per_group=5, dimension=40, classes=1)
    x = scale * x / np.linalg.norm(x, axis=1, keepdims=True)
    fitted = ClassConditionalGaussians.fit(x, labels, rotations, num_classes=1, shrinkage=shrinkage)
    seen = fitted.distances(x, rotations).numpy()
    other = fitted.distances(x[::-1], rotations).numpy()
    assert np.isfinite(seen).all()
    assert np.isfinite(other).all()
    assert np.median(other) > np.median(seen)


@pytest.mark.parametrize("shrinkage", [None, 0.5, 1.0, "ledoit_wolf"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_embedding(value, shrinkage):
    # The covariance is the jitter only: the distance of a point at Euclidean distance d is d / sqrt(1e-9).
    x = np.full((12, 3), value, np.float32)
    fitted = ClassConditionalGaussians.fit(x, [0] * 12, np.arange(12) % 4, num_classes=1, shrinkage=shrinkage)
    found = fitted.distances([x[0], x[0] + [0.25, 0.0, 0.0]], [0, 1]).numpy()[:, 0]
    assert found[0] < 1e-2  # the rounding of the mean, at most 3e-8, over sqrt(1e-9)
    np.testing.assert_allclose(found[1], 0.25 / np.sqrt(1e-9), rtol=1e-5)


def test_a_constant_group_does_not_affect_the_others():
    x, labels, rotations = draw(13, classes=1)
    x[rotations == 2] = 0.5
    fitted = ClassConditionalGaussians.fit(x, labels, rotations, num_classes=1)
    group = x[rotations == 1]
    expected = direct_distance(x[0], group, "ledoit_wolf")
    np.testing.assert_allclose(fitted.distances(x[:1], [1])[0, 0], expected, rtol=1e-4)
    assert np.isfinite(fitted.distances(x[:1], [2])).all()


# Refusals.


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ((1, 2, 0), ["0 of class 1", "rotation 2"]),
        ((0, 3, 1), ["1 of class 0", "rotation 3"]),
    ],
)
def test_too_few_embeddings_are_refused(missing, words):
    label, rotation, left = missing
    x, labels, rotations = draw(14)
    drop = np.flatnonzero((labels == label) & (rotations == rotation))[left:]
    data = [np.delete(column, drop, axis=0) for column in (x, labels, rotations)]
    with pytest.raises(UsageError, match="at least two") as error:
        ClassConditionalGaussians.fit(*data, num_classes=2)
    for word in words:
        assert word in str(error.value)


def test_an_empty_fit_is_refused():
    with pytest.raises(UsageError, match="Received: 0 of class 0, rotation 0"):
        ClassConditionalGaussians.fit_batches([], num_classes=1)


@pytest.mark.parametrize(
    ("labels", "rotations", "message"),
    [
        ([0, 1, 2, 0], [0, 1, 2, 3], "labels must be 0 to 1. Received: 0 to 2"),
        ([0, -1, 1, 0], [0, 1, 2, 3], "labels must be 0 to 1. Received: -1 to 1"),
        ([0, 1, 1, 0], [0, 1, 2, 4], "rotations must be 0 to 3. Received: 0 to 4"),
        ([0, 1, 1, 0], [0, -1, 2, 3], "rotations must be 0 to 3. Received: -1 to 3"),
    ],
)
def test_labels_and_rotations_out_of_range_are_refused(labels, rotations, message):
    with pytest.raises(UsageError, match=message):
        ClassConditionalGaussians.fit(np.zeros((4, 3)), labels, rotations, num_classes=2)


@pytest.mark.parametrize(
    ("shape", "labels", "rotations"),
    [((4, 3), 3, 4), ((4, 3), 4, 5), ((4, 3), 5, 5), ((4,), 4, 4), ((2, 2, 3), 2, 2)],
)
def test_inconsistent_shapes_are_refused(shape, labels, rotations):
    with pytest.raises(UsageError, match="one label and one rotation each") as error:
        ClassConditionalGaussians.fit(np.zeros(shape), np.zeros(labels, int), np.zeros(rotations, int), num_classes=1)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shrinkage", [None, 0.5, "ledoit_wolf"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_embeddings_that_are_not_finite_are_refused(value, shrinkage):
    x, labels, rotations = draw(15)
    x[np.flatnonzero(labels == 1)[3], 2] = value
    with pytest.raises(UsageError, match="class 1 are not all finite"):
        ClassConditionalGaussians.fit(x, labels, rotations, num_classes=2, shrinkage=shrinkage)


@pytest.mark.parametrize("shrinkage", ["much", -0.1, 1.5, np.nan, [0.5]], ids=str)
def test_unknown_shrinkages_are_refused(shrinkage):
    with pytest.raises(UsageError, match="shrinkage must be ledoit_wolf, None or 0 to 1. Received: "):
        ClassConditionalGaussians.fit(*draw(16), num_classes=2, shrinkage=shrinkage)
