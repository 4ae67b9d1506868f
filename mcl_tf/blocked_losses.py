"""The losses of `losses.anchor_losses` in blocks of anchors, for batches whose matrices exceed the memory.

Only the matrices of one block exist at a time; the backward pass computes them again.

Reference: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv:1604.06174).
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf import losses


def anchor_losses(
    z, labels, rotations, partners, *, alpha, beta, temperature, anchors=None, block_size, per_anchor=None
):
    """Compute `losses.anchor_losses`, `block_size` anchors at a time.

    Args:
      z: float32 [2, N, D], normalized.
      labels: int [N].
      rotations: int [N], 0 to 3.
      partners: int [N], -1 for none.
      alpha: see `losses.class_conditional_mask`.
      beta: see `losses.class_conditional_mask`.
      temperature: see `losses.class_conditional_mask`.
      anchors: int [n], the instances to use as anchors; all N by default.
      block_size: int, the number of anchors per block. It is rounded up to an even number, because an instance is two
        anchors.
      per_anchor: a function with the signature of `losses.anchor_losses`, which is the default.

    Returns:
      (ccm, spa), float32 [2, n] each, with gradients to z.
    """
    per_anchor = per_anchor or losses.anchor_losses
    rows = tf.range(tf.shape(z)[1]) if anchors is None else tf.convert_to_tensor(anchors)
    count, width = tf.size(rows), (block_size + 1) // 2
    # The last block is padded with the first row; its results are cut off below.
    padded = tf.concat([rows, tf.fill([-count % width], rows[0])], 0)
    blocks = tf.reshape(padded, [-1, width])

    def of_block(z, block):
        mask = {"alpha": alpha, "beta": beta, "temperature": temperature}
        return tf.stack(per_anchor(z, labels, rotations, partners, **mask, anchors=block))

    @tf.custom_gradient
    def of_all(z):
        values = tf.map_fn(lambda block: of_block(z, block), blocks, fn_output_signature=z.dtype, parallel_iterations=1)

        def gradient(upstream):
            def add(total, part):
                block, weights = part
                with tf.GradientTape() as tape:
                    tape.watch(z)
                    again = of_block(z, block)
                return total + tape.gradient(again, z, output_gradients=weights)

            return tf.foldl(add, (blocks, upstream), initializer=tf.zeros_like(z), parallel_iterations=1)

        return values, gradient  # [blocks, 2 losses, 2 views, width]

    values = tf.transpose(of_all(tf.convert_to_tensor(z)), (1, 2, 0, 3))
    ccm, spa = tf.unstack(tf.reshape(values, [2, 2, -1])[:, :, :count])
    return ccm, spa
