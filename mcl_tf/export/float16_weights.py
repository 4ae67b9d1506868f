"""A network whose weights take half the bytes, for export."""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.utils import compat


@compat.keras_defaults()
def with_float16_weights(network) -> tf.keras.Model:
    """Return a copy of a network whose weights are float16 and whose arithmetic is float32.

    Layers that set their own precision, such as batch normalization, keep float32 weights.

    Args:
      network: functional model float [n, s, s, 3] -> [n, D] with float32 weights.
    """

    def convert(layer):
        if isinstance(layer, tf.keras.Model):
            return with_float16_weights(layer)
        if not getattr(layer, "weights", None):
            return layer
        return layer.__class__.from_config({**layer.get_config(), "dtype": compat.float16_weights_policy()})

    with compat.generators_kept():
        copy = tf.keras.models.clone_model(network, clone_function=convert)
    copy.set_weights(network.get_weights())
    return copy
