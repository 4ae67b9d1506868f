"""`memory`: peak resident memory, every side in a process of its own.

Of the loss in blocks against the loss at once; of a training step against the bare encoder's pass; of scoring a
hundred thousand pictures against a thousand, which should be the same.
"""

from __future__ import annotations

import resource

from benchmarks import step, subjects
from benchmarks.measure import Row, in_a_process

VIEWS, DIMENSION, BLOCK = 16384, 128, 512
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
    import tensorflow as tf

    from mcl_tf import losses, losses_blocked

    instances = VIEWS // 2
    x = tf.random.stateless_normal([2, instances, DIMENSION], [0, 1])
    labels, rotations = tf.zeros([instances], tf.int32), tf.range(instances) % 4
    partners = losses.sample_partners(labels, rotations, [0, 1])
    facts = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2}
    compute = losses.anchor_losses
    if block_size:
        compute, facts["block_size"] = losses_blocked.anchor_losses, block_size

    @tf.function(autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            ccm, spa = compute(losses.normalize(x), labels, rotations, partners, **facts)
            loss = tf.reduce_mean(ccm) + tf.reduce_mean(spa)
        return tape.gradient(loss, x)

    gradient.get_concrete_function(x)
    before = peak()
    gradient(x).numpy()
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
