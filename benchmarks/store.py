"""`store`: images in a file in place of memory: the peak memory and the rate of a training, and ways to read rows.

The two trainings see the same images, each in a process of its own, and must end with the same weights. Rows are read
with one call each, as the library does, and through a memory map of NumPy.
"""

from __future__ import annotations

import hashlib
import tempfile
import time

from benchmarks import memory, subjects
from benchmarks.input import drain
from benchmarks.measure import Row, rate_row, run_in_process, time_sides

IMAGES, SIZE, STEPS = 200_000, 64, 50
ROWS, BATCHES, BATCH_SIZE = 20_000, 300, 32
LIMIT = "500MB"  # far less than the images take


def rows(repeats: int = 5):
    """Yield the rows."""
    with tempfile.TemporaryDirectory() as directory:
        stored, held = (run_in_process(train, limit, directory) for limit in (LIMIT, "1TB"))
    if stored[2] != held[2]:
        raise RuntimeError("The weights differ")
    what = f"{STEPS} steps on {IMAGES:,} images of {SIZE}x{SIZE} pixels: from a file"
    yield Row("store memory", f"peak of {what} / from memory", stored[0], held[0], "MiB", stored[0] / held[0])
    yield Row("store step", f"{what} / from memory", stored[1], held[1], "images/s", stored[1] / held[1])
    with tempfile.TemporaryDirectory() as directory:
        seconds = time_sides(reading_sides(directory), repeats)
    count = BATCHES * BATCH_SIZE
    for side, title in (("file", "from a file"), ("map", "through a memory map")):
        yield rate_row(f"store {side}", f"batches {title} / from memory", seconds, side, "memory", count, "images/s")


def train(limit: str, directory: str) -> tuple[float, float, str]:
    """Train for some steps; return the peak in MiB, the images per second, and a fingerprint of the weights."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.config import DataConfig
    from mcl_tf.data import arrays
    from mcl_tf.data.room import Room
    from mcl_tf.training.trainer import Trainer

    config = subjects.configuration("small").replace(max_steps=STEPS, memory_limit=limit, cache_dir=directory)
    images, *_ = arrays.collect(synthetic_images(IMAGES, SIZE), None, DataConfig(), room=Room(config.run))
    ends: list[float] = []
    trainer = Trainer(config, images, np.zeros(len(images), np.int32))
    trainer.fit(
        [tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_, **__: ends.append(time.perf_counter()))]
    )
    weights = b"".join(weight.numpy().tobytes() for weight in trainer.model.encoder.weights)
    rate = trainer.batch_size / float(np.median(np.diff(ends)))
    return memory.peak(), rate, hashlib.sha256(weights).hexdigest()


def synthetic_images(count: int, size: int):
    """Return a dataset of different images uint8 [size, size, 3]: pieces of one noise."""
    import numpy as np
    import tensorflow as tf

    length = 3 * size * size
    noise = tf.constant(np.random.default_rng(0).integers(0, 256, 2**24, dtype=np.uint8))
    starts = tf.data.Dataset.range(count).map(lambda index: index * 104_729 % (2**24 - length))
    return starts.map(lambda start: tf.reshape(noise[start : start + length], [size, size, 3]))


def reading_sides(directory: str):
    """Return sides: batches from memory, from a file, and of rows of the same file that NumPy has mapped."""
    import pathlib

    import numpy as np
    import tensorflow as tf

    from mcl_tf.data import store
    from mcl_tf.data.batches import training_batches

    images = np.random.default_rng(0).integers(0, 256, (ROWS, SIZE, SIZE, 3), dtype=np.uint8)
    stored, _ = store.obtain(pathlib.Path(directory), "rows", [images], dict)
    mapped = np.load(pathlib.Path(directory, "rows", store.IMAGES), mmap_mode="r")
    labels = np.zeros(ROWS, np.int32)
    order = np.random.default_rng(1).integers(0, ROWS, (BATCHES, BATCH_SIZE))

    def gather(chosen):
        return tf.numpy_function(mapped.__getitem__, [chosen], tf.uint8, stateful=False)

    sides = {
        name: training_batches(source, labels, BATCH_SIZE, 0).take(BATCHES)
        for name, source in (("memory", images), ("file", stored))
    }
    sides["map"] = tf.data.Dataset.from_tensor_slices(order).map(gather).prefetch(2)
    return {name: lambda batches=batches: drain(batches) for name, batches in sides.items()}
