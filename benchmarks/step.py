"""`step`: the whole training step against the bare encoder's forward and backward pass on as many views.

What the step does beyond the encoder (views, augmentation, projection head, losses, optimiser) is what the ratio
leaves above 1.
"""

from __future__ import annotations

from benchmarks import subjects
from benchmarks.measure import duration, times

AIMS = {"small": 1.15, "resnet18": 1.05, "resnet34": 1.05}


def rows(repeats: int = 9):
    """Yields the rows."""
    for name, aim in AIMS.items():
        step, bare, views = sides(subjects.configuration(name))
        found = times({"step": step, "bare": bare}, repeats * (3 if name == "small" else 1))
        what = f"training step of {views} views / encoder alone"
        yield duration(f"step {name}", what, found, "step", "bare", at_most=aim)


def sides(config):
    """(training step, encoder's forward and backward pass, number of views)."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.data.batches import training_batches
    from mcl_tf.training.optimizers import make_optimizer
    from mcl_tf.training.trainer import build_model

    batch_size = config.training.batch_size
    pictures = subjects.pictures(batch_size * 4)
    model = build_model(config, subjects.SIDE)
    model.compile(optimizer=make_optimizer(config.training, 0.01), jit_compile=False)
    batches = iter(training_batches(pictures, np.zeros(len(pictures), np.int32), batch_size, seed=0))
    step = tf.function(lambda: model.optimize(next(batches))["loss"], autograph=False)
    encoder = build_model(config, subjects.SIDE).encoder
    views = tf.random.stateless_uniform((batch_size * 8, subjects.SIDE, subjects.SIDE, 3), [0, 2])
    return lambda: step().numpy(), subjects.bare_forward_and_backward(encoder, views), len(views)
