"""Stateless random numbers that are the same with and without XLA."""

from __future__ import annotations

import tensorflow as tf


def random_bits(shape, seed):
    """int32 numbers over their full range that depend on `seed` (int [2]) and their place alone."""
    return tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")


def uniform(shape, seed):
    """Uniform float32 numbers in [0, 1) that depend on `seed` (int [2]) and their place alone.

    Made of Philox's bits: XLA gives the same bits, but other floats than `tf.random.stateless_uniform`.
    """
    return tf.minimum(tf.cast(random_bits(shape, seed), tf.float32) * 2.0**-32 + 0.5, 1.0 - 2.0**-24)
