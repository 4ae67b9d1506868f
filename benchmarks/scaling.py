"""Step time with 1, 2 and 4 logical CPUs at one global batch, and the share of a run that checkpoints take, of a
short one too.

    python -m benchmarks.scaling --batch_size=32

One process takes strategies of one size only, so that every number of devices has a process of its own; they
take turns, and the medians of all their steps are printed. Logical CPUs share the machine's cores, so that more of
them cannot be faster there. What they take more is not batch normalisation's exchange: with the fused kernel and
every replica's own moments instead, a step was 3 to 4 % shorter (2 and 4 logical CPUs on two cores).
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def measure(replicas: int, batch_size: int, steps: int, results) -> None:
    """Puts (seconds of every step, seconds of every save) into a queue."""
    import numpy as np
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    from mcl_tf.config import Config
    from mcl_tf.training import Trainer

    class Clock(tf.keras.callbacks.Callback):
        """Notes when steps end."""

        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            self.ends.append(time.perf_counter())

    config = Config().replace(
        encoder="small",
        batch_size=batch_size,
        epochs=1,
        max_steps=steps + 2,
        strategy="mirrored" if replicas > 1 else "auto",
    )
    shape = ((steps + 2) * batch_size, 32, 32, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(config, pictures, np.zeros(len(pictures), np.int32), directory)
        trainer.fit([clock])
        saves = []
        for _ in range(5):
            trainer.step += 1
            start = time.perf_counter()
            trainer.save()
            saves.append(time.perf_counter() - start)
    results.put((np.diff(clock.ends)[1:].tolist(), saves))


def short_run(results) -> None:
    """Puts (seconds of the demo's training, seconds of its saves) into a queue."""
    from mcl_tf.config import Config
    from mcl_tf.data.protocols import build_task
    from mcl_tf.training import Trainer

    config = Config().replace(
        dataset="digits", encoder="small", batch_size=32, epochs=40, learning_rate=0.1, crop_min_area=0.4
    )
    task, saves = build_task(config.data, ""), []
    with tempfile.TemporaryDirectory() as directory:
        trainer = Trainer(config, task.train, task.train_labels, directory)
        save = trainer.store.save

        def timed(*arguments):
            start = time.perf_counter()
            save(*arguments)
            saves.append(time.perf_counter() - start)

        trainer.store.save = timed
        start = time.perf_counter()
        trainer.fit()
        results.put((time.perf_counter() - start, saves))


def in_process(context, side, *arguments):
    """What a function puts into a queue, in a process of its own."""
    results = context.Queue()
    process = context.Process(target=side, args=(*arguments, results))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{side.__name__}{arguments} ended with code {process.exitcode}")
    return results.get()


def main() -> None:
    """Measures and prints one line for every number of devices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=32, help="pictures; each becomes 8 views")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    times, saves = {1: [], 2: [], 4: []}, []
    for _ in range(options.rounds):
        for replicas in times:
            found, saved = in_process(context, measure, replicas, options.batch_size, options.steps)
            times[replicas] += found
            saves += saved if replicas == 1 else []
    medians = {replicas: statistics.median(found) for replicas, found in times.items()}
    for replicas, median in medians.items():
        print(
            f"{replicas} logical CPUs: {median * 1000:.0f} ms a step, {median / medians[1]:.2f} of one; "
            f"{os.cpu_count()} cores"
        )
    from mcl_tf.config import RunConfig

    save, minutes = statistics.median(saves), RunConfig().checkpoint_minutes
    print(f"A checkpoint takes {save * 1000:.0f} ms: {100 * save / (60 * minutes):.3f} % of {minutes:g} minutes")
    whole, saves = in_process(context, short_run)
    print(f"The demo's training of {whole:.1f} s saves {len(saves)} times: {100 * sum(saves) / whole:.2f} % of it")


if __name__ == "__main__":
    main()
