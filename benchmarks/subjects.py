"""The subjects of the benchmarks: configurations, images and bare networks."""

from __future__ import annotations

import numpy as np

# The networks of the table. `small` has width 2.
CONFIGURATIONS = {
    "small": {"encoder": "small", "width": 2.0, "projection_hidden": 512, "batch_size": 32},
    "resnet18": {"encoder": "resnet18", "batch_size": 8},
    "resnet34": {"encoder": "resnet34", "batch_size": 8},
}
SIZE = 32  # side of the images in pixels


def configuration(name: str):
    """Return a `Config` of the table by name."""
    from mcl_tf import Config

    return Config().replace(**CONFIGURATIONS[name])


def random_images(count: int, size: int = SIZE) -> np.ndarray:
    """Return random images uint8 [count, size, size, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def untrained_detector(name: str, classes: int = 1, **options):
    """Return a detector with an untrained network, which takes the same time as a trained one.

    Args:
      name: the name of the configuration.
      classes: the number of classes.
      **options: changes of the configuration, see `Config.replace`.
    """
    from mcl_tf import AnomalyDetector

    labels = np.arange(64 * classes) % classes
    config = configuration(name).replace(epochs=0, serving_batch_sizes=(1,), **options)
    return AnomalyDetector(config).fit(random_images(64 * classes), labels)


def bare_forward(network, size: int = SIZE):
    """Return the network alone as a function float32 [n, size, size, 3] -> [n, D]."""
    import tensorflow as tf

    signature = [tf.TensorSpec([None, size, size, 3], tf.float32)]
    return tf.function(lambda views: network(views, training=False), signature, autograph=False)


def bare_forward_and_backward(encoder, views):
    """Return a function that runs the forward and backward pass of the encoder alone, with a random gradient."""
    import tensorflow as tf

    # A constant gradient would be zero behind batch normalization, and cheaper.
    cotangent = tf.random.stateless_normal((len(views), encoder.output_shape[-1]), [0, 1])

    @tf.function(autograph=False)
    def run():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(views, training=True) * cotangent)
        # TensorFlow would not compute gradients that the function does not return.
        return loss, tape.gradient(loss, encoder.trainable_variables)

    return lambda: run()[0].numpy()
