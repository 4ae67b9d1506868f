"""`loss`: both losses with their gradient, compared with one product of similarities and its gradient, D = 128."""

from __future__ import annotations

import functools

from benchmarks.measure import duration_row, time_sides

VIEWS = (512, 2048, 8192)
DIMENSION = 128


def rows(repeats: int = 9):
    """Yield the rows."""
    for views in VIEWS:
        seconds = time_sides(dict(zip(("loss", "product"), sides(views), strict=True)), repeats)
        target = {"at_most": 4.0} if views == 2048 else {}
        comparison = "both losses and gradient / one similarity product and gradient"
        yield duration_row(f"loss {views} views", comparison, seconds, "loss", "product", **target)


def both_losses(views: int, block_size: int = 0):
    """Return a function of projections that computes the sum of both losses and its gradient, and random projections.

    Args:
      views: the number of views.
      block_size: the number of anchors per block of the loss; 0 computes all at once.
    """
    import tensorflow as tf

    from mcl_tf import blocked_losses, losses

    instances = views // 2
    x = tf.random.stateless_normal([2, instances, DIMENSION], [0, 1])
    labels, rotations = tf.zeros([instances], tf.int32), tf.range(instances) % 4
    partners = losses.sample_partners(labels, rotations, [0, 1])
    per_anchor = functools.partial(blocked_losses.anchor_losses, block_size=block_size) if block_size else None
    options = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2, "per_anchor": per_anchor}

    @tf.function(autograph=False)
    def compute(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            ccm, spa = losses.contrastive_losses(x, labels, rotations, partners, **options)
            loss = ccm + spa
        return loss, tape.gradient(loss, x)

    return compute, x


def sides(views: int):
    """Return (losses with gradient, product with gradient) of random projections."""
    import tensorflow as tf

    compute, x = both_losses(views)
    cotangent = tf.random.stateless_normal([views, views], [0, 2])

    @tf.function(autograph=False)
    def product(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = tf.reshape(x, [views, DIMENSION])
            similarity = tf.matmul(z, z, transpose_b=True)
        return similarity[0], tape.gradient(similarity, x, output_gradients=cotangent)

    return lambda: compute(x)[1].numpy(), lambda: product(x)[1].numpy()
