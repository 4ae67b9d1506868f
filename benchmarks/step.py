"""`step`: the whole training step, compared with the forward and backward pass of the encoder on as many views.

The ratio exceeds 1 by the rest of the step: views, augmentation, projection head, losses, optimizer and metrics.
"""

from __future__ import annotations

from benchmarks import subjects
from benchmarks.measure import duration_row, time_sides

TARGETS = {"small": 1.15, "resnet18": 1.05, "resnet34": 1.05}


def rows(repeats: int = 9):
    """Yield the rows."""
    for name, target in TARGETS.items():
        step, bare, views = sides(subjects.configuration(name))
        seconds = time_sides({"step": step, "bare": bare}, repeats * (3 if name == "small" else 1))
        comparison = f"training step of {views} views / encoder alone"
        yield duration_row(f"step {name}", comparison, seconds, "step", "bare", at_most=target)


def sides(config):
    """Return (training step, forward and backward pass of the encoder, number of views)."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.data.batches import training_batches
    from mcl_tf.training.optimizers import make_optimizer
    from mcl_tf.training.trainer import build_model

    batch_size = config.training.batch_size
    images = subjects.random_images(batch_size * 4)
    model = build_model(config, subjects.SIZE)
    model.compile(optimizer=make_optimizer(config.training, 0.01), jit_compile=False)
    model.make_train_function()
    batches = iter(training_batches(images, np.zeros(len(images), np.int32), batch_size, seed=0))
    encoder = build_model(config, subjects.SIZE).encoder
    views = tf.random.stateless_uniform((batch_size * 8, subjects.SIZE, subjects.SIZE, 3), [0, 2])
    return (
        lambda: float(model.train_function(batches)["loss"]),
        subjects.bare_forward_and_backward(encoder, views),
        len(views),
    )
