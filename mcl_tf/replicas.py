"""The replicas that share a global batch, as a training step sees them."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The position of this replica among all.

    Attributes:
      index: int tensor, the index of this replica.
      count: int, the number of replicas.
      context: TensorFlow's replica context.
    """

    index: Any
    count: int
    context: Any

    @classmethod
    def current(cls) -> Replicas:
        """Return the replicas of the strategy whose `run` encloses the call; a single one outside of any strategy."""
        context = tf.distribute.get_replica_context()
        return cls(context.replica_id_in_sync_group, context.num_replicas_in_sync, context)

    def all_gather(self, value, axis: int):
        """Concatenates the values of all replicas along an axis; the gradient sums over replicas."""
        return value if self.count == 1 else self.context.all_gather(value, axis)

    def all_sum(self, value):
        """Sum the values of all replicas; the gradient sums over replicas, too."""
        return value if self.count == 1 else self.context.all_reduce(tf.distribute.ReduceOp.SUM, value)
