"""The Gaussians against NumPy, scikit-learn and distances computed one by one."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn.covariance import LedoitWolf

from mcl_tf import gaussians
from mcl_tf.errors import UsageError
from mcl_tf.gaussians import ClassConditionalGaussians, GaussianFitter

JITTER = 1e-9  # on every diagonal, as the authors' code adds it


def draw(seed, per_group=30, dimension=6, classes=2, offset=0.0, spread=1.0):
    """Correlated embeddings of every (class, rotation) pair in mixed order: (embeddings, labels, rotations)."""
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
    """The covariance that a group should have, from definitions: numpy.cov or scikit-learn's estimate."""
    dimension = x.shape[1]
    if shrinkage == "ledoit_wolf":
        covariance = LedoitWolf().fit(x).covariance_
    else:
        s, covariance = shrinkage or 0.0, np.atleast_2d(np.cov(x, rowvar=False))
        covariance = (1.0 - s) * covariance + s * np.trace(covariance) / dimension * np.eye(dimension)
    return covariance + JITTER * np.eye(dimension)


def direct_distance(z, x, shrinkage):
    """sqrt((z - mean)' S^-1 (z - mean)) in float64."""
    x = x.astype(np.float64)
    centred = z.astype(np.float64) - x.mean(axis=0)
    return np.sqrt(centred @ np.linalg.solve(shrunk(x, shrinkage), centred))


def in_batches(data, sizes):
    """A fitter that has seen the data in batches of the given sizes."""
    fitter = GaussianFitter(num_classes=int(data[1].max()) + 1)
    for part in np.split(np.arange(len(data[0])), np.cumsum(sizes)):
        fitter.update(*(column[part] for column in data))
    return fitter


def assert_same_gaussians(found, expected, rtol=2e-5):
    # Float64 sums in another order, then one rounding to float32; whitenings of well-conditioned covariances.
    np.testing.assert_allclose(found.means, expected.means, rtol=1e-6, atol=1e-6)
    scale = np.abs(expected.whitenings).max()
    np.testing.assert_allclose(found.whitenings, expected.whitenings, rtol=0, atol=rtol * scale)


# Plain covariances of no more embeddings than dimensions are invertible up to the jitter only: their distances are
# tested further down, not their inverses.
FITS = [(30, 6, s) for s in (None, 0.0, 0.1, 1.0, "ledoit_wolf")]
FITS += [(40, 1, s) for s in (None, 0.1, "ledoit_wolf")]
FITS += [(count, dimension, s) for count, dimension in ((8, 12), (2, 3)) for s in (0.1, 1.0, "ledoit_wolf")]


@pytest.mark.parametrize(("per_group", "dimension", "shrinkage"), FITS)
def test_fit_has_the_mean_and_covariance_of_every_group(per_group, dimension, shrinkage):
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
            # Float32 whitenings; inverting multiplies their 1e-7 by the condition number, here up to 1e3.
            assert np.abs(covariance - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("shrinkage", [None, 0.3, "ledoit_wolf"])
@pytest.mark.parametrize("classes", [1, 3])
def test_distances_match_one_by_one(classes, shrinkage):
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
            # Float32 differences and products; the condition numbers above stand for the factor over 1e-7.
            np.testing.assert_allclose(found[i, label], direct_distance(z[i], group, shrinkage), rtol=1e-4)


def test_distances_keep_the_order_of_their_rows():
    fitted = ClassConditionalGaussians.fit(*draw(3), num_classes=2)
    z = np.random.default_rng(4).normal(size=(16, 6)).astype(np.float32)
    turns = np.tile([2, 0, 3, 1], 4)
    found = fitted.distances(z, turns).numpy()
    for order in (np.argsort(turns, kind="stable"), np.arange(16)[::-1], np.random.default_rng(5).permutation(16)):
        np.testing.assert_allclose(fitted.distances(z[order], turns[order]), found[order], rtol=1e-5)
    only = fitted.distances(z[turns == 3], [3] * 4)  # the other rotations' parts are empty
    np.testing.assert_allclose(only, found[turns == 3], rtol=1e-5)
    assert fitted.distances(np.zeros((0, 6), np.float32), np.zeros(0, np.int32)).shape == (0, 2)


def test_distances_by_hand():
    # Means 0 and variances 4 and 1 without covariance: the distance of (2, 1) is sqrt(4 / 4 + 1 / 1) = sqrt(2), in
    # rotation 1, whose mean is (2, 0), it is 1. Jitter changes either by 1e-9 of itself.
    points = np.array([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]]) * np.sqrt(3.0 / 4.0)
    x = np.concatenate([points, points + [2.0, 0.0], points, points])
    fitted = ClassConditionalGaussians.fit(x, [0] * 16, np.repeat(range(4), 4), num_classes=1, shrinkage=None)
    np.testing.assert_allclose(fitted.distances([[2.0, 1.0]] * 2, [0, 1]), [[np.sqrt(2.0)], [1.0]], rtol=1e-6)


def test_distances_in_a_graph_of_unknown_length():
    fitted = ClassConditionalGaussians.fit(*draw(6), num_classes=2)
    signature = [tf.TensorSpec([None, 6], tf.float32), tf.TensorSpec([None], tf.int32)]
    distances = tf.function(fitted.distances, signature, autograph=False)
    z = np.random.default_rng(7).normal(size=(9, 6)).astype(np.float32)
    turns = np.array([3, 1, 0, 0, 2, 3, 1, 1, 2], np.int32)
    np.testing.assert_allclose(distances(z, turns), fitted.distances(z, turns), rtol=1e-5)


@pytest.mark.parametrize("classes", [2, gaussians._AT_ONCE + 1], ids=["at-once", "by-rotation"])
def test_mahalanobis_takes_all_rotations(classes):
    fitted = ClassConditionalGaussians.fit(*draw(6, classes=classes), num_classes=classes)
    z = np.random.default_rng(8).normal(size=(4, 5, 6)).astype(np.float32)
    found = tf.function(gaussians.mahalanobis, autograph=False)(z, fitted.means, fitted.whitenings)
    expected = fitted.distances(z.reshape(20, 6), np.repeat(range(4), 5))
    np.testing.assert_allclose(tf.reshape(found, [20, classes]), expected, rtol=1e-5)


# Batch by batch.


@pytest.mark.parametrize("shrinkage", [None, 0.2, "ledoit_wolf"])
@pytest.mark.parametrize("sizes", [[1] * 240, [100, 1, 60], [240]], ids=["ones", "uneven", "one-batch"])
def test_batches_give_what_one_fit_gives(sizes, shrinkage):
    data = draw(8)
    expected = ClassConditionalGaussians.fit(*data, num_classes=2, shrinkage=shrinkage)
    assert_same_gaussians(in_batches(data, sizes).gaussians(shrinkage), expected)


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
def test_the_order_of_embeddings_does_not_matter(shrinkage):
    data = draw(9)
    expected = ClassConditionalGaussians.fit(*data, num_classes=2, shrinkage=shrinkage)
    order = np.random.default_rng(0).permutation(240)
    moved = [column[order] for column in data]
    assert_same_gaussians(in_batches(moved, [7] * 34).gaussians(shrinkage), expected)


def test_fitter_can_go_on_after_giving_gaussians():
    x, labels, rotations = draw(10)
    fitter = in_batches((x[:200], labels[:200], rotations[:200]), [200])
    first = fitter.gaussians()
    fitter.update(x[200:], labels[200:], rotations[200:])
    assert_same_gaussians(
        first, ClassConditionalGaussians.fit(x[:200], labels[:200], rotations[:200], num_classes=2)
    )
    assert_same_gaussians(fitter.gaussians(), ClassConditionalGaussians.fit(x, labels, rotations, num_classes=2))


@pytest.mark.parametrize("shrinkage", [None, "ledoit_wolf"])
@pytest.mark.parametrize("first", [1, 240], ids=["by-batches", "at-once"])
def test_small_spread_around_a_large_mean(first, shrinkage):
    # Means near 1 and deviations near 1e-4: the square of a mean in float32 carries an error of 6e-8, six times
    # the variance of 1e-8, so sums that do not take a shift off first fail by more than everything.
    x, labels, rotations = data = draw(11, offset=1.0, spread=1e-4)
    fitted = in_batches(data, [first] * (240 // first)).gaussians(shrinkage)
    z = x[:40] + np.float32(1e-4)
    found = fitted.distances(z, rotations[:40]).numpy()
    for i in range(40):
        for label in range(2):
            group = x[(labels == label) & (rotations == rotations[i])]
            # Means in float32 are off by up to 6e-8, 6e-4 of a deviation.
            np.testing.assert_allclose(
                found[i, label], direct_distance(z[i], group, shrinkage), rtol=5e-3, atol=5e-3
            )


# Degenerate embeddings.


@pytest.mark.parametrize("shrinkage", [None, 0.0, 0.5, "ledoit_wolf"])
@pytest.mark.parametrize("scale", [1.0, 1e4], ids=["normalised", "large"])
def test_fewer_embeddings_than_dimensions(scale, shrinkage):
    # Large numbers make rounding leave eigenvalues below -1e-9, which no factorisation into triangles survives.
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
    # The covariance is 0, so the jitter alone is left: a point d away is d / sqrt(1e-9) away.
    x = np.full((12, 3), value, np.float32)
    fitted = ClassConditionalGaussians.fit(x, [0] * 12, np.arange(12) % 4, num_classes=1, shrinkage=shrinkage)
    found = fitted.distances([x[0], x[0] + [0.25, 0.0, 0.0]], [0, 1]).numpy()[:, 0]
    assert found[0] < 1e-2  # the mean's rounding, 3e-8 at most, over sqrt(1e-9)
    np.testing.assert_allclose(found[1], 0.25 / np.sqrt(1e-9), rtol=1e-5)


def test_two_equal_embeddings_among_others():
    # Two equal embeddings in one group and spread ones in the others must not disturb each other.
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


def test_no_embeddings_are_refused():
    with pytest.raises(UsageError, match="Received: 0 of class 0, rotation 0"):
        GaussianFitter(1).gaussians()


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
        GaussianFitter(2).update(np.zeros((4, 3)), labels, rotations)


@pytest.mark.parametrize(
    ("shape", "labels", "rotations"),
    [((4, 3), 3, 4), ((4, 3), 4, 5), ((4, 3), 5, 5), ((4,), 4, 4), ((2, 2, 3), 2, 2)],
)
def test_shapes_that_do_not_fit_are_refused(shape, labels, rotations):
    with pytest.raises(UsageError, match="one label and one rotation each") as error:
        GaussianFitter(1).update(np.zeros(shape), np.zeros(labels, int), np.zeros(rotations, int))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shrinkage", [None, 0.5, "ledoit_wolf"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_embeddings_that_are_no_numbers_are_refused(value, shrinkage):
    x, labels, rotations = draw(15)
    x[np.flatnonzero(labels == 1)[3], 2] = value
    with pytest.raises(UsageError, match="class 1 are not all finite"):
        ClassConditionalGaussians.fit(x, labels, rotations, num_classes=2, shrinkage=shrinkage)


def test_an_empty_batch_changes_nothing():
    data = draw(16)
    fitter = in_batches(data, [240])
    fitter.update(np.zeros((0, 6)), np.zeros(0, int), np.zeros(0, int))
    assert_same_gaussians(fitter.gaussians(), ClassConditionalGaussians.fit(*data, num_classes=2))
