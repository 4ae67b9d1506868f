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


def sides(views: int):
    """(losses with gradient, product with gradient) of random projections."""
    import tensorflow as tf

    from mcl_tf import losses

    instances = views // 2
    x = tf.random.stateless_normal([2, instances, DIMENSION], [0, 1])
    labels, rotations = tf.zeros([instances], tf.int32), tf.range(instances) % 4
    partners = losses.sample_partners(labels, rotations, [0, 1])
    cotangent = tf.random.stateless_normal([views, views], [0, 2])
    mask = {"alpha": 0.05, "beta": 5.0, "temperature": 0.2}

    @tf.function(autograph=False)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            ccm, spa = losses.anchor_losses(losses.normalize(x), labels, rotations, partners, **mask)
            loss = tf.reduce_mean(ccm) + tf.reduce_mean(spa)
        return loss, tape.gradient(loss, x)

    @tf.function(autograph=False)
    def product(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = tf.reshape(x, [views, DIMENSION])
            similarity = tf.matmul(z, z, transpose_b=True)
        return similarity[0], tape.gradient(similarity, x, output_gradients=cotangent)

    return lambda: both(x)[1].numpy(), lambda: product(x)[1].numpy()
