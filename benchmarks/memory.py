"""`memory`: peak resident memory, with every side in a process of its own.

The loss in blocks is compared with the loss at once, a training step with the bare pass of the encoder, and scoring of
a hundred thousand images with scoring of a thousand, which should take the same memory.
"""

from __future__ import annotations

import resource

from benchmarks import loss, step, subjects
from benchmarks.measure import Row, run_in_process

VIEWS, BLOCK_SIZE = 16384, 512
IMAGES = (1_000, 100_000)


def rows(repeats: int = 1):
    """Yield the rows."""
    del repeats  # peaks vary little
    dense, blocked = (run_in_process(loss_memory, size) for size in (0, BLOCK_SIZE))
    comparison = f"loss and gradient, {VIEWS} views: blocks of {BLOCK_SIZE} anchors / all at once"
    yield Row("memory loss", comparison, blocked, dense, "MiB", blocked / dense, at_most=0.25)
    for name in ("small", "resnet18"):
        whole, bare = (run_in_process(step_memory, name, side) for side in (0, 1))
        comparison = "training step / encoder alone, beyond the start"
        yield Row(f"memory step {name}", comparison, whole, bare, "MiB", whole / bare)
    few, many = (run_in_process(scoring_memory, count) for count in IMAGES)
    comparison = f"scoring {IMAGES[1]:,} images / {IMAGES[0]:,}, the whole process"
    yield Row("memory score", comparison, many, few, "MiB", many / few, at_most=1.1)


def peak() -> float:
    """Return the peak of the resident memory of the process so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loss_memory(block_size: int) -> float:
    """Return the MiB of loss and gradient beyond the start; `block_size` 0 computes all at once."""
    compute, x = loss.both_losses(VIEWS, block_size)
    compute.get_concrete_function(x)
    before = peak()
    compute(x)[1].numpy()
    return peak() - before


def step_memory(name: str, side: int) -> float:
    """Return the MiB of some training steps (side 0) or of the bare passes (side 1) beyond the start."""
    call = step.sides(subjects.configuration(name))[side]
    before = peak()
    for _ in range(4):
        call()
    return peak() - before


def scoring_memory(count: int) -> float:
    """Return the MiB of a process that scores a stream of images."""
    import tensorflow as tf

    detector = subjects.untrained_detector("small")
    image = tf.constant(subjects.random_images(1)[0])
    scores = detector.decision_function(tf.data.Dataset.from_tensors(image).repeat(count))
    assert len(scores) == count
    return peak()
