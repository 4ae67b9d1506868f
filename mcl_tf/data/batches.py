"""Batches of images in memory or in a file.

Their order follows from (seed, step) only, so that there is no state to save.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.data.store import reader
from mcl_tf.utils.stateless_random import random_bits

_OPTIONS = tf.data.Options()
_OPTIONS.autotune.enabled = False  # nothing to tune, and the tuning thread can take half a second to end
_OPTIONS.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF


def training_batches(
    images,
    labels,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    *,
    balanced: bool = False,
    replicas: tuple[int, int, int] = (0, 1, 1),
) -> tf.data.Dataset:
    """Create an endless dataset of batches, shuffled anew in every epoch of n // batch_size steps.

    Args:
      images: uint8 [n, s, s, 3], an array or `StoredImages`.
      labels: int [n].
      batch_size: number of images per global batch, at most n and a multiple of the number of replicas.
      seed: of the order.
      first_step: the first step; a resumed run continues with the batches that it would have seen.
      balanced: whether a batch has every class equally often, up to one. Images of small classes repeat sooner.
      replicas: (first, count, total). Every step yields, one after the other, the parts of `count` replicas out of
        `total`, starting with the replica `first`; by default the whole batch.

    Returns:
      A dataset of (uint8 [batch_size / total, s, s, 3], int32 [batch_size / total]) with static shapes.
    """
    rows = _balanced_rows(labels, seed) if balanced else _shuffled_rows(len(images), batch_size, seed)
    first, count, total = replicas
    size = batch_size // total
    read, labels = reader(images), tf.constant(labels, tf.int32)

    def gather(part):
        start = part // count * batch_size + (first + part % count) * size
        chosen = rows(start + tf.range(size, dtype=tf.int64))
        return read(chosen), tf.gather(labels, chosen)

    parts = tf.data.Dataset.range(first_step * count, np.iinfo(np.int64).max // batch_size)
    # Balanced batches take longer to choose: two at a time, in the same order.
    batches = parts.map(gather, 2, deterministic=True) if balanced else parts.map(gather)
    return batches.prefetch(2 * count).with_options(_OPTIONS)


def _shuffled_rows(count: int, batch_size: int, seed: int):
    """Return a function from positions in the endless order, those of one batch, to images; int64 [b] both."""
    epoch_size = count // batch_size * batch_size

    def rows(positions):
        # An epoch consists of whole batches.
        return _shuffle(positions % epoch_size, seed, positions[:1] // epoch_size, tf.constant(count - 1, tf.int64))

    return rows


def _balanced_rows(labels, seed: int):
    """Like `_shuffled_rows`; classes take turns, each through its own images, shuffled anew in every pass."""
    labels = np.asarray(labels)
    classes = np.unique(labels)
    members = [np.flatnonzero(labels == label) for label in classes]
    sizes = tf.constant([len(group) for group in members], tf.int64)
    starts = tf.constant(np.cumsum([0, *map(len, members)])[:-1], tf.int64)
    members = tf.constant(np.concatenate(members), tf.int64)

    def rows(positions):
        turn, label = positions // len(classes), positions % len(classes)
        size = tf.gather(sizes, label)
        # Every class and pass has its own permutation.
        within = _shuffle(turn % size, seed, turn // size * len(classes) + label, size - 1)
        return tf.gather(members, tf.gather(starts, label) + within)

    return rows


def _shuffle(position, seed: int, number, last):
    """Return the index in 0 to `last` at a position [b] of the permutation for a seed and a number [1] or [b]."""
    # The key is drawn, because neighbouring keys such as (seed, epoch) give correlated permutations.
    draw = lambda one: random_bits([3], tf.stack([tf.constant(seed, tf.int64), one]))  # noqa: E731
    if number.shape[0] == 1:
        keys = draw(number[0])
    else:
        # The loop is slow, and a batch holds few different numbers: mostly one or two per class.
        different, indices = tf.unique(number)
        keys = tf.gather(tf.map_fn(draw, different, fn_output_signature=tf.int32), indices)
    # tf.random.experimental.index_shuffle wraps this operation, but fails with one key per position (TensorFlow 2.21).
    return tf.raw_ops.RandomIndexShuffle(index=position, seed=keys, max_index=last, rounds=4)
