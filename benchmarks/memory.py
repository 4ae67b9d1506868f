"""Peak memory of loss and gradient: all anchors at once against blocks of them.

    python -m benchmarks.memory --views=16384 --block_size=512

Every side is a process of its own, whose peak resident memory less what it holds before the loss is printed.
"""

import argparse
import multiprocessing
import os
import resource
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

KIB = 1024


def measure(views: int, dimension: int, block_size: int, results) -> None:
    """Puts (MiB beyond the start, seconds) of one side into a queue."""
    import tensorflow as tf

    from mcl_tf import losses, losses_blocked

    instances = views // 2
    x = tf.random.stateless_normal([2, instances, dimension], [0, 1])
    labels, rotations = tf.zeros([instances], tf.int32), tf.range(instances) % 4
    partners = losses.sample_partners(labels, rotations, [0, 1])

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = losses.normalize(x)
            facts = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2}
            compute = losses.anchor_losses
            if block_size:
                compute, facts["block_size"] = losses_blocked.anchor_losses, block_size
            ccm, spa = compute(z, labels, rotations, partners, **facts)
            loss = tf.reduce_mean(ccm) + tf.reduce_mean(spa)
        return loss, tape.gradient(loss, x)

    step.get_concrete_function(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    loss, gradient = step(x)
    gradient.numpy()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put(((peak - before) / KIB, time.perf_counter() - start, float(loss)))


def main() -> None:
    """Measures both sides and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--views", type=int, default=16384)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--block_size", type=int, default=512)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    found = []
    for block_size in (0, options.block_size):
        results = context.Queue()
        process = context.Process(target=measure, args=(options.views, options.dimension, block_size, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"The side with block size {block_size} ended with code {process.exitcode}")
        found.append(results.get())
    (dense, dense_time, dense_loss), (blocks, blocks_time, blocks_loss) = found
    print(
        f"{options.views} views, D = {options.dimension}: dense {dense:.0f} MiB ({dense_time:.1f} s, loss "
        f"{dense_loss:.5f}), blocks of {options.block_size} {blocks:.0f} MiB ({blocks_time:.1f} s, loss "
        f"{blocks_loss:.5f}); memory ratio {blocks / dense:.3f}"
    )


if __name__ == "__main__":
    main()
