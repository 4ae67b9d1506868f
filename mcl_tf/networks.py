"""Encoders and projection head as functional Keras models.

References: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385); Chen et
al., SimCLR (arXiv:2002.05709), section 4.2 (projection head) and appendix B.9 (stem for small pictures).
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.config import SMALL_PICTURE, ModelConfig
from mcl_tf.convolution import Conv2D
from mcl_tf.normalization import SynchronizedBatchNormalization

layers = tf.keras.layers

# Blocks of every stage, channels of the first stage at width 1, whether blocks have a bottleneck.
_ENCODERS = {
    "small": ((1, 1, 1), 16, False),
    "resnet18": ((2, 2, 2, 2), 64, False),
    "resnet34": ((3, 4, 6, 3), 64, False),
    "resnet50": ((3, 4, 6, 3), 64, True),
}
_BLOCK = 16  # channels that oneDNN takes at once, 8 with AVX2


def _convolution(x, channels, kernel, strides=1, activation=True):
    """Convolution, synchronised batch normalisation, and ReLU if asked for."""
    if kernel == 1 and strides > 1 and x.shape[-1] < _BLOCK:
        # The same, slower, and right with oneDNN, whose gradient of a strided 1x1 convolution of fewer channels
        # than its block is wrong and differs from run to run (https://github.com/uxlfoundation/oneDNN/issues/6035).
        x, strides = x[:, ::strides, ::strides, :], 1
    x = Conv2D(channels, kernel, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = SynchronizedBatchNormalization()(x)
    return layers.ReLU()(x) if activation else x


def _residual_block(x, channels, strides, bottleneck):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels, around a shortcut."""
    out = channels * 4 if bottleneck else channels
    shortcut = x
    if strides != 1 or x.shape[-1] != out:
        shortcut = _convolution(x, out, 1, strides, activation=False)
    if bottleneck:
        x = _convolution(x, channels, 1)
        x = _convolution(x, channels, 3, strides)
        x = _convolution(x, out, 1, activation=False)
    else:
        x = _convolution(x, channels, 3, strides)
        x = _convolution(x, out, 3, activation=False)
    return layers.ReLU()(layers.Add()([x, shortcut]))


def build_encoder(config: ModelConfig, image_size: int) -> tf.keras.Model:
    """The encoder.

    Args:
      config: architecture and width.
      image_size: side of the pictures; from 96 on the stem is 7x7 with stride 2 and max-pooling.

    Returns:
      A model float [n, s, s, 3] in [0, 1] -> [n, D], not normalised.
    """
    blocks, channels, bottleneck = _ENCODERS[config.encoder]
    channels = max(1, round(channels * config.width))
    small = config.encoder == "small"  # made for two CPU cores: every stage halves, and the stem from 32 pixels on
    inputs = layers.Input((image_size, image_size, 3))
    if image_size >= SMALL_PICTURE:
        x = _convolution(inputs, channels, 7, 2)
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    else:
        x = _convolution(inputs, channels, 3, 2 if small and image_size >= 32 else 1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            strides = 2 if block == 0 and (small or stage > 0) else 1
            x = _residual_block(x, channels * 2**stage, strides, bottleneck)
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)  # whatever the precision of the layers before
    return tf.keras.Model(inputs, x, name="encoder")


def build_projection_head(config: ModelConfig, dimension: int) -> tf.keras.Model:
    """The projection head: float [n, dimension] -> [n, projection_dim], not normalised."""
    inputs = layers.Input((dimension,))
    x = layers.Dense(config.projection_hidden, activation="relu")(inputs)
    x = layers.Dense(config.projection_dim, dtype="float32")(x)
    return tf.keras.Model(inputs, x, name="projection_head")
