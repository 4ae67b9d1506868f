"""Stateless random numbers that are equal with and without XLA."""

from __future__ import annotations

import tensorflow as tf


def random_bits(shape, seed):
    """Draw int32 numbers over their full range.

    Args:
      shape: int sequence or tensor, the shape of the result.
      seed: int [2]. The numbers depend on the seed and their index only.

    Returns:
      int32 tensor of the given shape.
    """
    return tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")


def uniform(shape, seed):
    """Draw uniform numbers in [0, 1).

    They are made from Philox's bits, because `tf.random.stateless_uniform` gives other floats under XLA.

    Args:
      shape: int sequence or tensor, the shape of the result.
      seed: int [2]. The numbers depend on the seed and their index only.

    Returns:
      float32 tensor of the given shape.
    """
    return tf.minimum(tf.cast(random_bits(shape, seed), tf.float32) * 2.0**-32 + 0.5, 1.0 - 2.0**-24)
