"""`memory`: peak resident memory, every side in a process of its own.

Of the loss in blocks against the loss at once; of a training step against the bare encoder's pass; of scoring a
hundred thousand pictures against a thousand, which should be the same.
"""

from __future__ import annotations

import resource

from benchmarks import loss, step, subjects
from benchmarks.measure import Row, in_a_process

VIEWS, BLOCK = 16384, 512
PICTURES = (1_000, 100_000)


def rows(repeats: int = 1):
    """Yields the rows."""
    dense, blocks = (in_a_process(of_loss, block) for block in (0, BLOCK))
    what = f"loss and gradient, {VIEWS} views: blocks of {BLOCK} anchors / all at once"
    yield Row("memory loss", what, blocks, dense, "MiB", blocks / dense, at_most=0.25)
    for name in ("small", "resnet18"):
        whole, bare = (in_a_process(of_step, name, side) for side in (0, 1))
        what = "training step / encoder alone, beyond the start"
        yield Row(f"memory step {name}", what, whole, bare, "MiB", whole / bare)
    few, many = (in_a_process(of_scoring, count) for count in PICTURES)
    what = f"scoring {PICTURES[1]:,} pictures / {PICTURES[0]:,}, the whole process"
    yield Row("memory score", what, many, few, "MiB", many / few, at_most=1.1)


def peak() -> float:
    """The process's largest resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def of_loss(block_size: int) -> float:
    """MiB of loss and gradient beyond the start; `block_size` 0 for all at once."""
    both, x = loss.both_losses(VIEWS, block_size)
    both.get_concrete_function(x)
    before = peak()
    both(x)[1].numpy()
    return peak() - before


def of_step(name: str, side: int) -> float:
    """MiB of a few training steps (side 0) or of the bare passes (side 1) beyond the start."""
    call = step.sides(subjects.configuration(name))[side]
    before = peak()
    for _ in range(4):
        call()
    return peak() - before


def of_scoring(count: int) -> float:
    """MiB of a process that scores so many pictures from a stream."""
    import tensorflow as tf

    detector = subjects.untrained_detector("small")
    picture = tf.constant(subjects.pictures(1)[0])
    scores = detector.decision_function(tf.data.Dataset.from_tensors(picture).repeat(count))
    assert len(scores) == count
    return peak()
