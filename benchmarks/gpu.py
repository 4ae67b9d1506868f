"""`gpu`: the training step on a GPU by precision and compilation, beside the card's own rate of products.

The share of the card's peak is taken of a product of large matrices measured in the same run and precision, not of
the maker's figure.
"""

from __future__ import annotations

import statistics

from benchmarks import subjects
from benchmarks.measure import Row, in_a_process, times

BATCH = {"GPU": 256, "CPU": 2}  # pictures
MATRIX = {"GPU": 8192, "CPU": 512}


def rows(repeats: int = 9, device: str = "GPU"):
    """Yields the rows.

    Raises:
      RuntimeError: there is no GPU.
    """
    if not in_a_process(has, device):
        raise RuntimeError("There is no GPU here: nothing was measured")
    for precision in ("float32", "bfloat16"):
        for compiled in ("off", "on"):
            yield from in_a_process(measure, precision, compiled, device, repeats)


def has(device: str) -> bool:
    """Whether TensorFlow sees such a device."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices(device))


def measure(precision: str, compiled: str, device: str, repeats: int) -> list[Row]:
    """Views a second beside the floating-point operations of the card, and beside a step without its input."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.training.trainer import Trainer

    batch, size = BATCH[device], MATRIX[device]
    config = subjects.configuration("resnet18").replace(
        batch_size=batch, precision=precision, jit_compile=compiled, epochs=1000
    )
    pictures = subjects.pictures(batch * 8)
    trainer = Trainer(config, pictures, np.zeros(len(pictures), np.int32))
    step, batches = trainer._step_function(), trainer._batches()
    same = next(batches)
    dtype = tf.bfloat16 if precision == "bfloat16" else tf.float32
    a = tf.cast(tf.random.stateless_normal([size, size], [0, 1]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)), autograph=False)
    sides = {
        "step": lambda: step(next(batches)),
        "without input": lambda: step(same),
        "product": lambda: product().numpy(),
    }
    found = times(sides, repeats, warm_up=3)
    median = {side: statistics.median(values) for side, values in found.items()}
    views = batch * 8
    achieved = views * 3 * forward_operations(trainer.model) / median["step"] / 1e12
    peak = 2 * size**3 / median["product"] / 1e12
    name = f"gpu {precision}{' compiled' if compiled == 'on' else ''}"
    rate, fed = views / median["step"], views / median["without input"]
    return [
        Row(name, "TFLOP/s of the step / of a large product", achieved, peak, "TFLOP/s", achieved / peak),
        Row(f"{name} input", "step fed by the pipeline / by one batch again", rate, fed, "views/s", rate / fed),
    ]


def forward_operations(model) -> float:
    """Floating-point operations of encoder and head for one view; a backward pass takes twice as many."""
    import tensorflow as tf

    total = 0.0
    for layer in [*model.encoder.layers, *model.projection_head.layers]:
        if isinstance(layer, (tf.keras.layers.Conv2D, tf.keras.layers.Dense)):
            kernel = layer.kernel.shape
            places = 1
            for side in layer.output.shape[1:-1]:
                places *= side
            operations = 2.0 * places
            for side in kernel:
                operations *= side
            total += operations
    return total
