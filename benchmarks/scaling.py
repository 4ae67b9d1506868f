"""`scaling`: the step on 1, 2 and 4 logical CPUs at one global batch, and the share of checkpoints in a short run.

One process takes strategies of one size only, so that every number of devices has a process of its own; they take
turns. Logical CPUs share the machine's cores: more of them cannot be faster there, and what they take more is the
price of replicas. It is not batch normalisation's exchange: with the fused kernel and every replica's own moments
instead, a step was 4 % shorter.
"""

from __future__ import annotations

import statistics
import tempfile
import time

from benchmarks import subjects
from benchmarks.measure import Row, in_a_process

STEPS = 10


def rows(repeats: int = 3):
    """Yields the rows."""
    found: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(repeats):
        for replicas, medians in found.items():
            medians.append(1000 * in_a_process(step_seconds, replicas))
    for replicas in (2, 4):
        ratio = statistics.median(a / b for a, b in zip(found[replicas], found[1], strict=True))
        medians = (statistics.median(found[count]) for count in (replicas, 1))
        yield Row(f"scaling {replicas} replicas", "step on so many logical CPUs / on one", *medians, "ms", ratio)
    whole, saves = in_a_process(short_run)
    what = "checkpoints of the demo / its whole training"
    yield Row("scaling checkpoints", what, saves, whole, "s", saves / whole, at_most=0.02)


def step_seconds(replicas: int) -> float:
    """The median of some steps of the small encoder, 256 views."""
    import numpy as np
    import tensorflow as tf

    from mcl_tf.training.trainer import Trainer

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)

    class Clock(tf.keras.callbacks.Callback):
        """Notes when steps end."""

        ends: list[float] = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    config = subjects.configuration("small").replace(
        epochs=1, max_steps=STEPS + 2, strategy="mirrored" if replicas > 1 else "auto"
    )
    pictures = subjects.pictures((STEPS + 2) * config.training.batch_size)
    clock = Clock()
    Trainer(config, pictures, np.zeros(len(pictures), np.int32)).fit([clock])
    return float(np.median(np.diff(clock.ends)[1:]))


def short_run() -> tuple[float, float]:
    """(seconds of the demo's training, seconds of its checkpoints)."""
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

        def timed(*arguments):
            start = time.perf_counter()
            saved = save(*arguments)
            saves.append(time.perf_counter() - start)
            return saved

        trainer.store.save = timed
        start = time.perf_counter()
        trainer.fit()
        return time.perf_counter() - start, sum(saves)
