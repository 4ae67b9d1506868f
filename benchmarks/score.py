"""`score`: scoring of images in memory and fitting of the Gaussians, compared with the bare pass of the network."""

from __future__ import annotations

import functools

from benchmarks import subjects
from benchmarks.measure import rate_row, time_sides

SIZES = {"small": (512, 128), "resnet18": (64, 64)}  # number of images, images per batch


def rows(repeats: int = 7):
    """Yield the rows."""
    import numpy as np
    import tensorflow as tf
    import threadpoolctl

    from mcl_tf import fitting
    from mcl_tf.utils import parallel

    for name, (count, batch_size) in SIZES.items():
        detector = subjects.untrained_detector(name, scoring_batch_size=batch_size)
        images, labels = subjects.random_images(count), np.zeros(count, np.int32)
        bare = subjects.bare_forward(detector.scorer_.network)
        per_pass = parallel.per_thread(batch_size)  # the network gets as many images at a time on all sides
        views = tf.random.stateless_uniform((per_pass * 8, subjects.SIZE, subjects.SIZE, 3), [0, 1])

        def passes(bare=bare, views=views, number=count // per_pass):
            for _ in range(number):
                bare(views).numpy()

        sides = {
            "score": lambda detector=detector, images=images: detector.decision_function(images),
            "fit": functools.partial(fitting.fit_gaussians, detector.scorer_, images, labels),
            "bare": passes,
        }
        # After a fit the threads of NumPy spin for a while, at the cost of the side that follows.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            seconds = time_sides(sides, repeats)
        for side, title in (("score", "score"), ("fit", "fit_gaussians")):
            comparison = f"{title} end to end / bare forward pass of 8 views"
            yield rate_row(f"{title} {name}", comparison, seconds, side, "bare", count, "images/s", at_least=0.95)
