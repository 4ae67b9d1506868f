"""Reads numbers from encoded images in the graph; the limits and words that all decoders share."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

MAX_PIXELS = 2**27  # 402 MB decoded; a few kilobytes of PNG can claim a hundred times as much
UNDECODABLE = "that cannot be decoded: damaged, cut short or of a rare kind"


def bytes_at(contents, positions, count: int):
    """Return bytes of strings from given positions on, zeros beyond their ends.

    Args:
      contents: string, of any shape.
      positions: integers from 0 up, of the same shape.
      count: the number of bytes.

    Returns:
      int64 [..., count].
    """
    starts = tf.minimum(tf.cast(positions, tf.int64), tf.cast(tf.strings.length(contents), tf.int64))
    parts = tf.strings.substr(contents, starts, tf.fill(tf.shape(starts), tf.constant(count, tf.int64)))
    return tf.cast(tf.io.decode_raw(parts, tf.uint8, fixed_length=count), tf.int64)


def numbers(values, *fields) -> list:
    """Read unsigned numbers from rows of bytes.

    Args:
      values: int64 [..., k], bytes.
      *fields: (position, width in bytes) of every number; a negative width means that the high byte comes first.

    Returns:
      A list of int64 [...].
    """
    # One product, because building a graph of slices and sums takes longer than reading a hundred images.
    weights = np.zeros((values.shape[-1], len(fields)), np.int64)
    for column, (position, width) in enumerate(fields):
        powers = 256 ** np.arange(abs(width))
        weights[position : position + len(powers), column] = powers if width > 0 else powers[::-1]
    return tf.unstack(tf.reduce_sum(values[..., None] * weights, -2), axis=-1)


def numbers_at(contents, positions, *fields) -> list:
    """Read unsigned numbers from strings; bytes beyond their ends count as zeros.

    Args:
      contents: string, of any shape.
      positions: integers of the same shape, where the positions of the fields begin.
      *fields: see `numbers`.

    Returns:
      A list of int64 [...].
    """
    length = max(start + abs(width) for start, width in fields)
    return numbers(bytes_at(contents, positions, length), *fields)


def demand(condition, description: str):
    """Context manager whose operations run after a check, which fails if the condition is false.

    `tf.debugging.Assert` is a branch of two functions, each of which takes milliseconds whenever a dataset is read.

    Args:
      condition: bool [].
      description: what the error names.
    """
    return tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=[description])])
