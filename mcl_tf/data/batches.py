"""Batches out of pictures in memory; their order follows from (seed, step) alone, with nothing to save."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.utils.stateless_random import random_bits

_OPTIONS = tf.data.Options()
_OPTIONS.autotune.enabled = False  # as folders.UNTUNED
_OPTIONS.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF


def training_batches(
    pictures,
    labels,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    *,
    balanced: bool = False,
    replicas: tuple[int, int, int] = (0, 1, 1),
) -> tf.data.Dataset:
    """Endless batches, shuffled anew every epoch of n // batch_size steps.

    Args:
      pictures: uint8 [n, s, s, 3].
      labels: int [n].
      batch_size: pictures of the global batch, at most n; a multiple of the replicas.
      seed: of the order.
      first_step: the step to begin with, so that a resumed run sees what it would have seen.
      balanced: every class equally often in a batch, give or take one; the pictures of small classes come back
        sooner.
      replicas: (first, count, total). For every step the pieces of `count` replicas of `total`, beginning with
        the replica `first`, follow one after the other; by default the whole batch.

    Returns:
      (uint8 [batch_size / total, s, s, 3], int32 [batch_size / total]) batches of static shape.
    """
    rows = _balanced_rows(labels, seed) if balanced else _shuffled_rows(len(pictures), batch_size, seed)
    first, count, total = replicas
    size = batch_size // total
    pictures, labels = tf.constant(pictures), tf.constant(labels, tf.int32)

    def gather(piece):
        start = piece // count * batch_size + (first + piece % count) * size
        chosen = rows(start + tf.range(size, dtype=tf.int64))
        return tf.gather(pictures, chosen), tf.gather(labels, chosen)

    pieces = tf.data.Dataset.range(first_step * count, np.iinfo(np.int64).max // batch_size)
    # Balanced batches take longer to choose: two at a time, in the same order.
    batches = pieces.map(gather, 2, deterministic=True) if balanced else pieces.map(gather)
    return batches.prefetch(2 * count).with_options(_OPTIONS)


def _shuffled_rows(count: int, batch_size: int, seed: int):
    """The picture at every place of the endless order: int64 [b], places of one batch -> int64 [b]."""
    epoch_size = count // batch_size * batch_size

    def rows(places):
        # An epoch is whole batches.
        return _shuffle(places % epoch_size, seed, places[:1] // epoch_size, tf.constant(count - 1, tf.int64))

    return rows


def _balanced_rows(labels, seed: int):
    """As `_shuffled_rows`; classes take turns, each through its own pictures, shuffled anew every time."""
    labels = np.asarray(labels)
    classes = np.unique(labels)
    members = [np.flatnonzero(labels == label) for label in classes]
    sizes = tf.constant([len(group) for group in members], tf.int64)
    starts = tf.constant(np.cumsum([0, *map(len, members)])[:-1], tf.int64)
    members = tf.constant(np.concatenate(members), tf.int64)

    def rows(places):
        turn, label = places // len(classes), places % len(classes)
        size = tf.gather(sizes, label)
        # A key of its own for every class and pass.
        within = _shuffle(turn % size, seed, turn // size * len(classes) + label, size - 1)
        return tf.gather(members, tf.gather(starts, label) + within)

    return rows


def _shuffle(place, seed: int, number, last):
    """The place [b] in 0 to `last` after the permutation of a seed and a number [1] or [b]."""
    # The key is drawn: the shuffle takes small numbers such as (seed, epoch) for nearly the same key.
    draw = lambda one: random_bits([3], tf.stack([tf.constant(seed, tf.int64), one]))  # noqa: E731
    if number.shape[0] == 1:
        keys = draw(number[0])
    else:
        # The loop is what costs here, and a batch holds few different numbers: mostly one or two a class.
        different, places = tf.unique(number)
        keys = tf.gather(tf.map_fn(draw, different, fn_output_signature=tf.int32), places)
    return tf.raw_ops.RandomIndexShuffle(index=place, seed=keys, max_index=last, rounds=4)
