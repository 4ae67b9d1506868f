"""`growth`: how cost grows with pictures, views and classes: times at several sizes, fitted to a formula.

The two sides of a row are the time at the largest size and the formula's; the formula is fitted to the other sizes
alone, so that the ratio says how well it foretells.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks import loss, subjects
from benchmarks.measure import Row, times


def rows(repeats: int = 9):
    """Yields the rows."""
    for name, formula, terms, sizes, sides in (
        ("loss by views N", "a N + b N^2", (lambda n: n, lambda n: n**2), *of_loss()),
        ("scoring by pictures n", "a + b n", (lambda n: 1, lambda n: n), *of_pictures()),
        ("scoring by views V", "a + b V", (lambda v: 1, lambda v: v), *of_views()),
        ("distances by classes C", "a + b C", (lambda c: 1, lambda c: c), *of_classes()),
    ):
        found = times(dict(zip(sizes, sides, strict=True)), repeats)
        medians = [1000 * statistics.median(found[size]) for size in sizes]
        expected = foretell(terms, sizes, medians)
        what = f"ms at {sizes[-1]} / by {formula} from {', '.join(map(str, sizes[:-1]))}"
        yield Row(f"growth: {name}", what, medians[-1], expected, "ms", medians[-1] / expected)


def foretell(terms: tuple[Callable, ...], sizes, values) -> float:
    """The value at the last size by the formula with coefficients of at least 0 that fits the others best."""
    import numpy as np
    from scipy.optimize import nnls

    matrix = np.array([[float(term(size)) for term in terms] for size in sizes])
    values = np.asarray(values)
    # Relative errors count: the smallest size as much as the largest.
    coefficients, _ = nnls(matrix[:-1] / values[:-1, None], np.ones(len(values) - 1))
    return float(matrix[-1] @ coefficients)


def of_loss():
    """Both losses with gradient."""
    sizes = (512, 1024, 2048, 4096, 8192)
    return sizes, [loss.sides(views)[0] for views in sizes]


def of_pictures():
    """Scoring in memory."""
    detector = subjects.untrained_detector("small")
    pictures = subjects.pictures(2048)
    sizes = (128, 256, 512, 1024, 2048)
    return sizes, [lambda n=n: detector.decision_function(pictures[:n]) for n in sizes]


def of_views():
    """Scoring with 1, 4 and 8 views."""
    from mcl_tf import AnomalyDetector

    pictures, sizes, sides = subjects.pictures(512), (1, 4, 8), []
    for views in sizes:
        config = subjects.configuration("small").replace(epochs=0, views=views)
        detector = AnomalyDetector(config).fit(subjects.pictures(64))
        sides.append(lambda detector=detector: detector.decision_function(pictures))
    return sizes, sides


def of_classes():
    """Distances of 4,096 embeddings of 128 dimensions to the Gaussians of so many classes."""
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
