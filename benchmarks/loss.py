"""`loss`: both losses with their gradient against one product of similarities with its gradient, D = 128."""

from __future__ import annotations

from benchmarks.measure import duration, times

VIEWS = (512, 2048, 8192)
DIMENSION = 128


def rows(repeats: int = 9):
    """Yields the rows."""
    for views in VIEWS:
        found = times(dict(zip(("loss", "product"), sides(views), strict=True)), repeats)
        aim = {"at_most": 4.0} if views == 2048 else {}
        what = "both losses and gradient / one similarity product and gradient"
        yield duration(f"loss {views} views", what, found, "loss", "product", **aim)


def both_losses(views: int, block_size: int = 0):
    """A function of random projections that gives both losses' sum and its gradient, and the projections.

    With `block_size`, the losses are computed in blocks of so many anchors.
    """
    import tensorflow as tf

    from mcl_tf import blocked_losses, losses

    instances = views // 2
    x = tf.random.stateless_normal([2, instances, DIMENSION], [0, 1])
    labels, rotations = tf.zeros([instances], tf.int32), tf.range(instances) % 4
    partners = losses.sample_partners(labels, rotations, [0, 1])
    facts = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2}
    compute = losses.anchor_losses
    if block_size:
        compute, facts["block_size"] = blocked_losses.anchor_losses, block_size

    @tf.function(autograph=False)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            ccm, spa = compute(losses.normalize(x), labels, rotations, partners, **facts)
            loss = tf.reduce_mean(ccm) + tf.reduce_mean(spa)
        return loss, tape.gradient(loss, x)

    return both, x


def sides(views: int):
    """(losses with gradient, product with gradient) of random projections."""
    import tensorflow as tf

    both, x = both_losses(views)
    cotangent = tf.random.stateless_normal([views, views], [0, 2])

    @tf.function(autograph=False)
    def product(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = tf.reshape(x, [views, DIMENSION])
            similarity = tf.matmul(z, z, transpose_b=True)
        return similarity[0], tape.gradient(similarity, x, output_gradients=cotangent)

    return lambda: both(x)[1].numpy(), lambda: product(x)[1].numpy()
