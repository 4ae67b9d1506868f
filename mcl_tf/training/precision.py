"""How the training step computes: mixed precision and XLA, where each of them works."""

from __future__ import annotations

import contextlib

import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.utils import compat


@contextlib.contextmanager
def precision_policy(precision: str):
    """Layers made within compute in `precision` with float32 weights."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def with_loss_scaling(optimizer, precision: str, replicas: int):
    """The optimiser with the scaling that small float16 gradients need.

    Raises:
      UsageError: loss scaling does not work here.
    """
    if precision != "float16":
        return optimizer
    if replicas > 1:
        raise UsageError(
            "--precision=float16 needs loss scaling, which Keras does not do right under several replicas: "
            f"possible there are float32 and bfloat16. Received: float16 with {replicas} replicas"
        )
    if not compat.KERAS_3:
        raise UsageError("--precision=float16 needs Keras 3. Possible here: float32, bfloat16. Received: float16")
    return tf.keras.mixed_precision.LossScaleOptimizer(optimizer)


def compiles(choice: str, strategy: tf.distribute.Strategy) -> bool:
    """Whether XLA compiles the step; `auto` does on a single GPU (on CPUs it made it two to three times slower).

    Raises:
      UsageError: asked for under several replicas, whose exchange XLA does not compile.
    """
    single = strategy.num_replicas_in_sync == 1
    if choice == "on" and not single:
        raise UsageError(
            "--jit_compile=on compiles the step of one device: possible here are auto and off. Received: on with "
            f"{strategy.num_replicas_in_sync} replicas"
        )
    return choice == "on" or (choice == "auto" and single and len(tf.config.list_logical_devices("GPU")) == 1)
