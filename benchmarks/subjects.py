"""What the benchmarks measure: configurations, pictures and bare networks."""

from __future__ import annotations

import numpy as np

# The two networks of the table. `small` is that of flags/presets/cpu.flags.
CONFIGURATIONS = {
    "small": {"encoder": "small", "width": 2.0, "projection_hidden": 512, "batch_size": 32},
    "resnet18": {"encoder": "resnet18", "batch_size": 8},
    "resnet34": {"encoder": "resnet34", "batch_size": 8},
}
SIDE = 32


def configuration(name: str):
    """A `Config` of the table by name."""
    from mcl_tf.config import Config

    return Config().replace(**CONFIGURATIONS[name])


def pictures(count: int, side: int = SIDE) -> np.ndarray:
    """Random pictures uint8 [count, side, side, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def untrained_detector(name: str, classes: int = 1, **options):
    """A detector whose network is untrained: the time is the same; `options` as of `Config.replace`."""
    from mcl_tf import AnomalyDetector

    labels = np.arange(64 * classes) % classes
    config = configuration(name).replace(epochs=0, serving_batch_sizes=(1,), labelled=classes > 1, **options)
    return AnomalyDetector(config).fit(pictures(64 * classes), labels)


def bare_forward(network, side: int = SIDE):
    """The network alone as a function float32 [n, side, side, 3] -> [n, D]."""
    import tensorflow as tf

    signature = [tf.TensorSpec([None, side, side, 3], tf.float32)]
    return tf.function(lambda views: network(views, training=False), signature, autograph=False)


def bare_forward_and_backward(encoder, views):
    """The encoder's forward and backward pass alone, with a gradient such as a loss sends back."""
    import tensorflow as tf

    # Through batch normalisation a constant gradient is zero, and cheaper.
    cotangent = tf.random.stateless_normal((len(views), encoder.output_shape[-1]), [0, 1])

    @tf.function(autograph=False)
    def bare():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(views, training=True) * cotangent)
        # All of them leave the function: what nothing asks for would not be computed.
        return loss, tape.gradient(loss, encoder.trainable_variables)

    return lambda: bare()[0].numpy()
