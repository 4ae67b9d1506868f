"""`score`: scoring of pictures in memory, end to end, and fitting the Gaussians, against the bare 8-view pass."""

from __future__ import annotations

from benchmarks import subjects
from benchmarks.measure import rate, times

SIZES = {"small": (512, 128), "resnet18": (64, 64)}  # pictures, pictures a batch


def rows(repeats: int = 7):
    """Yields the rows."""
    import numpy as np
    import tensorflow as tf
    import threadpoolctl

    from mcl_tf.utils import parallel

    for name, (count, batch) in SIZES.items():
        detector = subjects.untrained_detector(name, scoring_batch_size=batch)
        pictures, labels = subjects.pictures(count), np.zeros(count, np.int32)
        bare = subjects.bare_forward(detector.scorer_.network)
        batch = parallel.share(batch)  # the network gets as many at a time on all sides
        views = tf.random.stateless_uniform((batch * 8, subjects.SIDE, subjects.SIDE, 3), [0, 1])

        def passes(bare=bare, views=views, batches=count // batch):
            for _ in range(batches):
                bare(views).numpy()

        sides = {
            "score": lambda detector=detector, pictures=pictures: detector.decision_function(pictures),
            "fit": lambda detector=detector, pictures=pictures, labels=labels: detector.fit_gaussians(
                pictures, labels
            ),
            "bare": passes,
        }
        # NumPy's threads spin for a while after a fit, at the cost of the side that follows it.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            found = times(sides, repeats)
        for side, title in (("score", "score"), ("fit", "fit_gaussians")):
            what = f"{title} end to end / bare forward pass of 8 views"
            yield rate(f"{title} {name}", what, found, side, "bare", count, "pictures/s", at_least=0.95)
