"""`gpu`: the training step on a GPU by precision and compilation, compared with a product of large matrices.

The peak of the card is that of the product, measured in the same run and precision, not the manufacturer's number.
"""

from __future__ import annotations

import statistics

from benchmarks import subjects
from benchmarks.measure import Row, run_in_process, time_sides

BATCH_SIZE = {"GPU": 256, "CPU": 2}
MATRIX_SIZE = {"GPU": 8192, "CPU": 512}


def rows(repeats: int = 9, device: str = "GPU"):
    """Yield the rows.

    Raises:
      RuntimeError: there is no GPU.
    """
    if not run_in_process(has_device, device):
        raise RuntimeError("Nothing was measured, because there is no GPU")
    for precision in ("float32", "bfloat16"):
        for compiled in (False, True):
            yield from run_in_process(measure, precision, compiled, device, repeats)


def has_device(device: str) -> bool:
    """Return whether TensorFlow has a device of this type."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices(device))


def measure(precision: str, compiled: bool, device: str, repeats: int) -> list[Row]:
    """Return the rows of one precision: operations per second beside the peak, and the cost of the input."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.data.batches import training_batches
    from mcl_tf.training.optimizers import make_optimizer
    from mcl_tf.training.trainer import build_model

    batch_size, size = BATCH_SIZE[device], MATRIX_SIZE[device]
    config = subjects.configuration("resnet18").replace(batch_size=batch_size, precision=precision)
    images = subjects.random_images(batch_size * 8)
    model = build_model(config, subjects.SIZE)
    model.compile(optimizer=make_optimizer(config.training, 0.01))
    step = tf.function(model.train_step, jit_compile=compiled, autograph=False)
    batches = iter(training_batches(images, np.zeros(len(images), np.int32), batch_size, seed=0))
    same = next(batches)
    dtype = tf.bfloat16 if precision == "bfloat16" else tf.float32
    a = tf.cast(tf.random.stateless_normal([size, size], [0, 1]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)), autograph=False)
    sides = {
        "step": lambda: float(step(next(batches))["loss"]),
        "without input": lambda: float(step(same)["loss"]),
        "product": lambda: product().numpy(),
    }
    seconds = time_sides(sides, repeats, warm_up=3)
    median = {side: statistics.median(values) for side, values in seconds.items()}
    views = batch_size * 8
    achieved = views * 3 * forward_operations(model) / median["step"] / 1e12
    peak = 2 * size**3 / median["product"] / 1e12
    name = f"gpu {precision}{' compiled' if compiled else ''}"
    fed, unfed = views / median["step"], views / median["without input"]
    return [
        Row(name, "TFLOP/s of the step / of a large product", achieved, peak, "TFLOP/s", achieved / peak),
        Row(f"{name} input", "step with batches from memory / with the same batch", fed, unfed, "views/s", fed / unfed),
    ]


def forward_operations(model) -> float:
    """Return the floating-point operations of encoder and head per view; a backward pass takes twice as many."""
    import tensorflow as tf

    total = 0.0
    for layer in [*model.encoder.layers, *model.projection_head.layers]:
        if isinstance(layer, (tf.keras.layers.Conv2D, tf.keras.layers.Dense)):
            operations = 2.0
            for length in (*layer.output.shape[1:-1], *layer.kernel.shape):
                operations *= length
            total += operations
    return total
