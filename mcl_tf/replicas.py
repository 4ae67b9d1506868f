"""What a training step knows of the replicas it shares the global batch with."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The place of this replica among all: `index` of `count`."""

    index: Any
    count: int
    context: Any

    @classmethod
    def current(cls) -> Replicas:
        """The replicas of the strategy whose `run` encloses the call; one outside of any."""
        context = tf.distribute.get_replica_context()
        return cls(context.replica_id_in_sync_group, context.num_replicas_in_sync, context)

    def all_gather(self, value, axis: int):
        """The values of all replicas, joined along `axis` in their order; its gradient sums over replicas."""
        return value if self.count == 1 else self.context.all_gather(value, axis)

    def all_sum(self, value):
        """The sum of the values of all replicas; its gradient sums over replicas too."""
        return value if self.count == 1 else self.context.all_reduce(tf.distribute.ReduceOp.SUM, value)
