"""Batches out of pictures in memory; their order follows from (seed, step) alone, with nothing to save."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.random_numbers import random_bits

_OPTIONS = tf.data.Options()
_OPTIONS.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF


def training_batches(pictures, labels, batch_size: int, seed: int, first_step: int = 0) -> tf.data.Dataset:
    """Endless batches, shuffled anew every epoch of n // batch_size steps.

    Args:
      pictures: uint8 [n, s, s, 3].
      labels: int [n].
      batch_size: pictures of the global batch, at most n.
      seed: of the order.
      first_step: the step to begin with, so that a resumed run sees what it would have seen.

    Returns:
      (uint8 [batch_size, s, s, 3], int32 [batch_size]) batches of static shape.
    """
    count = len(pictures)
    epoch_size = count // batch_size * batch_size
    pictures, labels = tf.constant(pictures), tf.constant(labels, tf.int32)

    def gather(places):
        # An epoch is whole batches. Its key is drawn: the shuffle takes small numbers such as (seed, epoch)
        # for nearly the same key.
        epoch, place = places[0] // epoch_size, places % epoch_size
        state = tf.stack([tf.constant(seed, tf.int64), epoch])
        key = random_bits([3], state)
        last = tf.constant(count - 1, tf.int64)
        rows = tf.raw_ops.RandomIndexShuffle(index=place, seed=key, max_index=last, rounds=4)
        return tf.gather(pictures, rows), tf.gather(labels, rows)

    places = tf.data.Dataset.range(first_step * batch_size, np.iinfo(np.int64).max)
    places = places.batch(batch_size, drop_remainder=True)
    return places.map(gather).prefetch(2).with_options(_OPTIONS)
