"""`scaling`: the step on 1, 2 and 4 logical CPUs with one global batch, and the share of checkpoints in a short run.

TensorFlow supports strategies of one size only per process, so that every number of devices has a process of its own;
the processes take turns. Logical CPUs share the cores of the machine, so that the ratio is the overhead of replicas.
README.md says what causes it.
`forecast` goes on from here to several GPUs.
"""

from __future__ import annotations

import statistics
import tempfile
import time

from benchmarks import subjects
from benchmarks.measure import Row, run_in_process

STEPS = 10


def rows(repeats: int = 3):
    """Yield the rows."""
    milliseconds: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(repeats):
        for replicas, medians in milliseconds.items():
            medians.append(1000 * run_in_process(step_seconds, replicas))
    for replicas in (2, 4):
        ratio = statistics.median(a / b for a, b in zip(milliseconds[replicas], milliseconds[1], strict=True))
        medians = (statistics.median(milliseconds[count]) for count in (replicas, 1))
        yield Row(f"scaling {replicas} replicas", f"step on {replicas} logical CPUs / on one", *medians, "ms", ratio)
    whole, saves = run_in_process(short_run)
    comparison = "checkpoints of the demo / its whole training"
    yield Row("scaling checkpoints", comparison, saves, whole, "s", saves / whole, at_most=0.02)


def step_seconds(replicas: int) -> float:
    """Return the median of the seconds of some steps of the small encoder with 256 views."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.training.trainer import Trainer

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)

    class Clock(tf.keras.callbacks.Callback):
        """Records the times at which steps end."""

        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    config = subjects.configuration("small").replace(
        epochs=1, max_steps=STEPS + 2, strategy="mirrored" if replicas > 1 else "auto"
    )
    images = subjects.random_images((STEPS + 2) * config.training.batch_size)
    clock = Clock()
    Trainer(config, images, np.zeros(len(images), np.int32)).fit([clock])
    return float(np.median(np.diff(clock.ends)[1:]))


def short_run() -> tuple[float, float]:
    """Return (seconds of the demo's training, seconds of its checkpoints)."""
    from absl import flags

    from flags import config_from_flags
    from mcl_tf.data.tasks import build_task
    from mcl_tf.training.trainer import Trainer

    flags.FLAGS(["benchmarks", "--flagfile=flags/presets/demo.flags"])
    config = config_from_flags()
    task, saves = build_task(config.data, ""), []
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(config, task.train, task.train_labels, directory)
        save = trainer.store.save

        def timed_save(*arguments):
            start = time.perf_counter()
            saved = save(*arguments)
            saves.append(time.perf_counter() - start)
            return saved

        trainer.store.save = timed_save
        start = time.perf_counter()
        trainer.fit()
        return time.perf_counter() - start, sum(saves)
