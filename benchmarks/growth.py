"""`growth`: how cost grows with images, views and classes: a formula, fitted to the times at several sizes.

A row compares the time at the largest size with the time that the formula predicts from the other sizes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks import loss, subjects
from benchmarks.measure import Row, time_sides


def rows(repeats: int = 9):
    """Yield the rows."""
    for name, formula, terms, sizes, sides in (
        ("loss by views N", "a N + b N^2", (lambda n: n, lambda n: n**2), *loss_by_views()),
        ("scoring by images n", "a + b n", (lambda n: 1, lambda n: n), *scoring_by_images()),
        ("scoring by views V", "a + b V", (lambda v: 1, lambda v: v), *scoring_by_views()),
        ("distances by classes C", "a + b C", (lambda c: 1, lambda c: c), *distances_by_classes()),
    ):
        seconds = time_sides(dict(zip(sizes, sides, strict=True)), repeats)
        medians = [1000 * statistics.median(seconds[size]) for size in sizes]
        expected = predict(terms, sizes, medians)
        comparison = f"ms at {sizes[-1]} / by {formula} from {', '.join(map(str, sizes[:-1]))}"
        yield Row(f"growth: {name}", comparison, medians[-1], expected, "ms", medians[-1] / expected)


def predict(terms: tuple[Callable, ...], sizes, values) -> float:
    """Predict the last value from the others by a sum of terms, whose coefficients are at least 0.

    Args:
      terms: functions of the size.
      sizes: the sizes.
      values: the value of every size.

    Returns:
      The value of the formula at the last size.
    """
    import numpy as np
    from scipy.optimize import nnls

    matrix = np.array([[float(term(size)) for term in terms] for size in sizes])
    values = np.asarray(values)
    # The fit minimizes relative errors, so that all sizes have the same weight.
    coefficients, _ = nnls(matrix[:-1] / values[:-1, None], np.ones(len(values) - 1))
    return float(matrix[-1] @ coefficients)


def loss_by_views():
    """Return sizes and sides: both losses with their gradient."""
    sizes = (512, 1024, 2048, 4096, 8192)
    return sizes, [loss.sides(views)[0] for views in sizes]


def scoring_by_images():
    """Return sizes and sides: scoring of images in memory."""
    detector = subjects.untrained_detector("small")
    images = subjects.random_images(2048)
    sizes = (128, 256, 512, 1024, 2048)
    return sizes, [lambda n=n: detector.decision_function(images[:n]) for n in sizes]


def scoring_by_views():
    """Return sizes and sides: scoring with 1, 4 and 8 views."""
    images, sizes = subjects.random_images(512), (1, 4, 8)
    detectors = [subjects.untrained_detector("small", views=views) for views in sizes]
    return sizes, [lambda detector=detector: detector.decision_function(images) for detector in detectors]


def distances_by_classes():
    """Return sizes and sides: distances of 4,096 embeddings of 128 dimensions to the Gaussians of all classes."""
    import tensorflow as tf

    from mcl_tf.gaussians import mahalanobis

    count, dimension, sizes, sides = 4096, 128, (4, 8, 16, 32, 64), []
    embeddings = tf.random.stateless_normal([4, count // 4, dimension], [0, 1])
    distances = tf.function(mahalanobis, autograph=False)
    for classes in sizes:
        means = tf.random.stateless_normal([4, classes, dimension], [0, 2])
        whitenings = tf.random.stateless_normal([4, classes, dimension, dimension], [0, 3])
        sides.append(lambda m=means, w=whitenings: distances(embeddings, m, w).numpy())
    return sizes, sides
