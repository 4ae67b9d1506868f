"""Mixed precision and XLA for the training step, where each of them works."""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.utils import compat


def dtype_policy(precision: str) -> str:
    """Return the name of Keras' dtype policy for a precision of the configuration."""
    return precision if precision in ("float32", "float64") else f"mixed_{precision}"


def with_loss_scaling(optimizer, precision: str, replicas: int):
    """Return the optimizer with the scaling that small float16 gradients need.

    Args:
      optimizer: a Keras optimizer.
      precision: see `TrainingConfig`; only float16 needs scaling.
      replicas: the number of replicas.

    Raises:
      UsageError: loss scaling does not work here.
    """
    if precision != "float16":
        return optimizer
    if replicas > 1:
        raise UsageError(
            "precision float16 needs loss scaling, which is broken in Keras under several replicas. "
            f"Possible: float32 and bfloat16. Received: float16 with {replicas} replicas"
        )
    if not compat.KERAS_3:
        raise UsageError("precision float16 needs Keras 3. Possible: float32 and bfloat16. Received: float16")
    return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)


def uses_xla(choice: str, strategy: tf.distribute.Strategy) -> bool:
    """Return whether XLA compiles the training step.

    `auto` compiles on a single GPU only; on CPUs, XLA makes the step two to three times slower.

    Args:
      choice: auto, on or off.
      strategy: the distribution strategy.

    Raises:
      UsageError: compilation was asked for under several replicas, whose communication XLA does not compile.
    """
    single = strategy.num_replicas_in_sync == 1
    if choice == "on" and not single:
        raise UsageError(
            "jit_compile compiles the step of a single device. Possible: auto and off. Received: on with "
            f"{strategy.num_replicas_in_sync} replicas"
        )
    return choice == "on" or (choice == "auto" and single and len(tf.config.list_logical_devices("GPU")) == 1)
