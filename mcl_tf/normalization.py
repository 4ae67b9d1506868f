"""Normalization of images, and batch normalization over the global batch.

Reference: Ioffe and Szegedy, "Batch Normalization", ICML 2015 (arXiv:1502.03167).
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.replicas import Replicas

_CONTRAST_FLOOR = 1e-3  # a quarter of a grey level; a constant image stays constant


@tf.keras.utils.register_keras_serializable("mcl_tf")
class ImageStandardization(tf.keras.layers.Layer):
    """Gives every image the same mean and contrast.

    Without it, a network does not learn from images of low contrast: their differences drown in the brightness jitter,
    and all projections stay the same.

    Args:
      mean: float, the mean over all pixels and channels of an image in the output.
      deviation: float, their standard deviation.
      **kwargs: arguments of `tf.keras.layers.Layer`.
    """

    def __init__(self, mean: float = 0.0, deviation: float = 1.0, **kwargs):
        kwargs["dtype"] = _float32_or_float64(kwargs.get("dtype"))
        super().__init__(**{**kwargs, "autocast": False})
        self.mean = mean
        self.deviation = deviation

    def call(self, images):
        """Standardize images float [n, h, w, c] in [0, 1]."""
        images = tf.cast(images, self.compute_dtype)
        center = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
        centred = images - center
        spread = tf.sqrt(tf.reduce_mean(tf.square(centred), axis=[1, 2, 3], keepdims=True))
        return centred * (self.deviation / (spread + _CONTRAST_FLOOR)) + self.mean

    def get_config(self):
        """Return the constructor arguments."""
        return {**super().get_config(), "mean": self.mean, "deviation": self.deviation}


@tf.keras.utils.register_keras_serializable("mcl_tf")
class SynchronizedBatchNormalization(tf.keras.layers.BatchNormalization):
    """`tf.keras.layers.BatchNormalization` with the statistics of all replicas, for images [n, h, w, c].

    `BatchNormalization(synchronized=True)` computes the moments with separate operations even on one device. This layer
    uses TensorFlow's fused kernel there, which makes a training step of the small encoder on two CPU cores a fifth
    faster. With several replicas, it uses the kernel for fixed moments. Statistics and weights are float32, or float64
    with that dtype; the output has the dtype of the input.

    Args:
      momentum: float, the share of the moving statistics that a step keeps.
      epsilon: float, added to the variance.
      **kwargs: arguments of `tf.keras.layers.BatchNormalization`.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-5, **kwargs):
        kwargs["dtype"] = _float32_or_float64(kwargs.get("dtype"))
        super().__init__(momentum=momentum, epsilon=epsilon, **{**kwargs, "autocast": False})

    def add_weight(self, *args, **kwargs):
        """Create a weight; Keras 2 would make all workers take part whenever one reads the moving statistics."""
        if "synchronization" in kwargs:
            kwargs["synchronization"] = tf.VariableSynchronization.AUTO
            kwargs["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
        return super().add_weight(*args, **kwargs)

    def call(self, inputs, training=False, mask=None):
        """Normalize float [n, h, w, c]; with `training`, by the moments of the global batch."""
        del mask  # images have none
        scale, offset = map(tf.convert_to_tensor, (self.gamma, self.beta))
        fusable = self.compute_dtype == "float32"
        if not training or not self.trainable:
            mean, variance = map(tf.convert_to_tensor, (self.moving_mean, self.moving_variance))
            return (self._fused if fusable else self._plain)(inputs, scale, offset, mean, variance)
        replicas = Replicas.current()
        if replicas.count == 1 and fusable:
            outputs, mean, unbiased = self._fused_with_moments(inputs, scale, offset)
        else:
            mean, variance, unbiased = _global_moments(tf.cast(inputs, self.compute_dtype), replicas)
            normalize = self._fused_over_replicas if fusable else self._plain
            outputs = normalize(inputs, scale, offset, mean, variance)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign(self.momentum * moving + (1.0 - self.momentum) * tf.stop_gradient(value))
        return tf.cast(outputs, inputs.dtype)

    def _plain(self, inputs, scale, offset, mean, variance):
        inputs = tf.cast(inputs, self.compute_dtype)
        return tf.nn.batch_normalization(inputs, mean, variance, offset, scale, self.epsilon)

    def _fused(self, inputs, scale, offset, mean, variance):
        arrays = {"x": inputs, "scale": scale, "offset": offset, "mean": mean, "variance": variance}
        return tf.raw_ops.FusedBatchNormV3(**arrays, epsilon=self.epsilon, is_training=False)[0]

    def _fused_with_moments(self, inputs, scale, offset):
        """Return the normalized inputs, their mean and their unbiased variance."""
        arrays = {"x": inputs, "scale": scale, "offset": offset, "mean": tf.zeros([0]), "variance": tf.zeros([0])}
        return tf.raw_ops.FusedBatchNormV3(**arrays, epsilon=self.epsilon, is_training=True)[:3]

    def _fused_over_replicas(self, inputs, scale, offset, mean, variance):
        """Normalize by the moments of the global batch; the gradient includes theirs."""
        replicas = Replicas.current()

        @tf.custom_gradient
        def normalized(x, scale, offset):
            def gradient(upstream):
                # With fixed moments, the kernel gives upstream * scale / deviation, and the sums of this replica.
                to_x, to_scale, to_offset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=upstream,
                    x=x,
                    scale=scale,
                    reserve_space_1=mean,
                    reserve_space_2=variance,
                    reserve_space_3=tf.zeros([0]),
                    epsilon=self.epsilon,
                    is_training=False,
                )
                count = tf.cast(_count(x, replicas), tf.float32)
                mean_to_offset, mean_to_scale = tf.unstack(replicas.all_sum(tf.stack([to_offset, to_scale])) / count)
                inverse = tf.math.rsqrt(variance + self.epsilon)
                slope = scale * tf.square(inverse) * mean_to_scale
                intercept = scale * inverse * mean_to_offset - slope * mean
                to_moments = tf.cast(x, tf.float32) * slope + intercept
                return to_x - tf.cast(to_moments, x.dtype), to_scale, to_offset

            return self._fused(x, scale, offset, mean, variance), gradient

        return normalized(inputs, scale, offset)


def _float32_or_float64(dtype) -> str:
    """Return the dtype of a layer that neither mixed precision nor the global policy narrows."""
    return "float64" if getattr(dtype, "name", dtype) == "float64" else "float32"


def _global_moments(x, replicas):
    """Return mean, variance and unbiased variance of x [n, h, w, c] over the equally large batches of all replicas."""
    axes = list(range(x.shape.rank - 1))
    count = tf.cast(_count(x, replicas), x.dtype)
    # Two passes over the data, like the fused kernel: E[x^2] - E[x]^2 would lose digits.
    mean = replicas.all_sum(tf.reduce_sum(x, axes)) / count
    variance = replicas.all_sum(tf.reduce_sum(tf.math.squared_difference(x, mean), axes)) / count
    return mean, variance, variance * count / (count - 1.0)


def _count(x, replicas):
    """Return the number of values of every channel of x [n, h, w, c] over all replicas."""
    return tf.size(x) // x.shape[-1] * replicas.count
