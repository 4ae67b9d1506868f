"""NT-Xent, the contrastive loss that knows neither classes nor rotations, to compare the masked loss with.

It is no case of the masked loss: that clips similarities at 0, so that views which point apart are not pushed further.

Reference: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020
(arXiv:2002.05709), section 2.1.
"""

from __future__ import annotations

import tensorflow as tf

_EXCLUDED = -1e9  # logit of an anchor with itself; cosines divided by the smallest temperature, 0.001, are far above it


def anchor_losses(z, labels, rotations, partners, *, alpha, beta, temperature, anchors=None):
    """Compute NT-Xent of every anchor, with the signature of `losses.anchor_losses`.

    The positive of an anchor is the other view of its instance; the negatives are the views of all other instances.
    Copies of one image in different rotations are different instances, and so are images of one class.

    Args:
      z: float32 or float64 [2, N, D], normalized.
      labels: ignored.
      rotations: ignored.
      partners: ignored.
      alpha: ignored.
      beta: ignored.
      temperature: float; cosines are divided by it.
      anchors: int [n], the instances to use as anchors; all N by default.

    Returns:
      Two tensors [2, n] of the dtype of z: the cross-entropy of the positive among all other views, and zeros in the
      place of the attraction.
    """
    del labels, rotations, partners, alpha, beta
    z = tf.convert_to_tensor(z)
    instances, dimension = tf.shape(z)[1], tf.shape(z)[2]
    rows = tf.range(instances) if anchors is None else tf.convert_to_tensor(anchors)
    anchor = z if anchors is None else tf.gather(z, rows, axis=1)
    first_then_second = tf.concat([rows, rows + instances], 0)
    cosines = tf.matmul(tf.reshape(anchor, [-1, dimension]), tf.reshape(z, [-1, dimension]), transpose_b=True)
    itself = first_then_second[:, None] == tf.range(2 * instances)
    logits = tf.where(itself, tf.constant(_EXCLUDED, z.dtype), cosines / temperature)
    positives = (first_then_second + instances) % (2 * instances)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(positives, logits)
    loss = tf.reshape(loss, [2, -1])
    return loss, tf.zeros_like(loss)
