"""How evenly projections are spread over the sphere, a measure to watch and no part of the loss.

Reference: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", ICML 2020 (arXiv:2005.10242), section 4.1.
"""

from __future__ import annotations

import tensorflow as tf

SAMPLE = 256  # instances that are compared, which takes about a millisecond on a CPU


def uniformity(z):
    """Return the logarithm of the mean of exp(-2 d^2), d being the distance of the first views of two instances.

    Args:
      z: float [2, N, D], normalized; the first `SAMPLE` instances count.

    Returns:
      float scalar between -8 and 0; 0 if all projections are equal, or if there is one instance.
    """
    units = z[0, :SAMPLE]
    cosines = tf.matmul(units, units, transpose_b=True)
    potentials = tf.exp(4.0 * cosines - 4.0)  # d^2 = 2 - 2 cosine
    count = tf.shape(units)[0]
    others = tf.reduce_sum(tf.linalg.set_diag(potentials, tf.zeros([count], z.dtype)))
    pairs = tf.cast(count * (count - 1), z.dtype)
    return tf.math.log(tf.where(pairs > 0, others / tf.maximum(pairs, 1.0), 1.0))
