"""Encoders and projection head as functional Keras models.

References: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv:1512.03385); Chen et al.,
SimCLR (arXiv:2002.05709), section 4.2 (projection head) and appendix B.9 (stem for small images).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf import pretrained
from mcl_tf.config import APPLICATIONS, ENCODERS, SMALL_IMAGE, ModelConfig
from mcl_tf.errors import UsageError
from mcl_tf.normalization import ImageStandardization, SynchronizedBatchNormalization
from mcl_tf.utils import compat
from mcl_tf.views import ROTATIONS

layers = tf.keras.layers

STAGE = "stage_"  # begins the names of the layers that end a stage, see `embeddings.stage_maps`
# Number of blocks per stage, channels of the first stage at width 1, whether blocks have a bottleneck.
_ENCODERS = {
    "compact": ((1, 1, 1), 16, False),
    "small": ((1, 1, 1), 16, False),
    "resnet18": ((2, 2, 2, 2), 64, False),
    "resnet34": ((3, 4, 6, 3), 64, False),
    "resnet50": ((3, 4, 6, 3), 64, True),
}
_ONEDNN_BLOCK = 16  # channels that oneDNN processes at once; 8 with AVX2


@compat.keras_defaults()
def build_encoder(config: ModelConfig, image_size: int, *, seed: int = 0, dtype="float32") -> tf.keras.Model:
    """Build the encoder that the configuration names: one of ours, of `keras.applications`, or from a file.

    Args:
      config: architecture, width and weights. An encoder from a file keeps its own.
      image_size: side of the images in pixels.
      seed: of the initial weights.
      dtype: dtype policy of the layers of our own encoders, e.g. "mixed_bfloat16".

    Returns:
      A model from images float [n, s, s, 3] in [0, 1] to embeddings [n, D], not normalized. They are float32, or
      float64 with that dtype.

    Raises:
      UsageError: the encoder or its weights cannot be loaded.
    """
    if config.encoder in ENCODERS and not config.encoder_weights:
        return _build_residual(config, image_size, seed, dtype)
    if config.encoder in ENCODERS and config.encoder not in APPLICATIONS:
        possible = ", ".join(APPLICATIONS)
        raise UsageError(f"encoder_weights needs one of the encoders {possible}. Received: {config.encoder}")
    if config.encoder in APPLICATIONS:
        trained = bool(config.encoder_weights)
        # Trained encoders see images as they were trained on. Standardized ones gave AUROC 0.937 instead of 0.947 on
        # solar cells.
        standardize = config.standardize and not trained
        encoder = pretrained.build_application(
            config.encoder, image_size, config.encoder_weights, seed=seed, standardize=standardize
        )
    else:
        encoder, trained = pretrained.load_encoder(config.encoder, image_size, seed=seed), True
    if trained:
        pretrained.freeze_batch_normalization(encoder)
    return encoder


def is_pretrained(config: ModelConfig) -> bool:
    """Return whether the encoder comes with weights that were trained elsewhere."""
    return bool(config.encoder_weights) or config.encoder not in ENCODERS + APPLICATIONS


def _build_residual(config: ModelConfig, image_size: int, seed: int, dtype) -> tf.keras.Model:
    """Build a residual network; from 96 pixels on, the stem is 7x7 with stride 2 and max-pooling."""
    blocks, channels, bottleneck = _ENCODERS[config.encoder]
    channels = max(1, round(channels * config.width))
    build = _BlockBuilder(seed, dtype)
    # For two CPU cores: the stem halves the sides from 32 pixels on; in `small`, so does the first stage.
    small, strided_stem = config.encoder == "small", config.encoder in ("compact", "small") and image_size >= 32
    inputs = layers.Input((image_size, image_size, 3))
    x = ImageStandardization(dtype=_wide(dtype))(inputs) if config.standardize else inputs
    if image_size >= SMALL_IMAGE:
        x = build.convolution(x, channels, 7, 2)
        x = layers.MaxPooling2D(3, 2, padding="same", dtype=dtype)(x)
    else:
        x = build.convolution(x, channels, 3, 2 if strided_stem else 1)
    x = _stage_end(x, 0)
    for stage, count in enumerate(blocks):
        for block in range(count):
            strides = 2 if block == 0 and (small or stage > 0) else 1
            x = build.residual_block(x, channels * 2**stage, strides, bottleneck)
        x = _stage_end(x, stage + 1)
    x = layers.GlobalAveragePooling2D(dtype=_wide(dtype))(x)
    return tf.keras.Model(inputs, x, name="encoder")


@compat.keras_defaults()
def build_projection_head(config: ModelConfig, dimension: int, *, seed: int = 0, dtype="float32") -> tf.keras.Model:
    """Build the projection head.

    Args:
      config: number of hidden units and of dimensions.
      dimension: number of dimensions of the embeddings.
      seed: of the initial weights.
      dtype: dtype policy of the hidden layer.

    Returns:
      A model from embeddings float [n, dimension] to projections [n, projection_dim], not normalized; they are float32,
      or float64 with that dtype.
    """
    seeds = _Seeds(seed, "projection head")
    inputs = layers.Input((dimension,))
    x = layers.Dense(
        config.projection_hidden, activation="relu", kernel_initializer=seeds.glorot_uniform(), dtype=dtype
    )(inputs)
    x = layers.Dense(config.projection_dim, kernel_initializer=seeds.glorot_uniform(), dtype=_wide(dtype))(x)
    return tf.keras.Model(inputs, x, name="projection_head")


@compat.keras_defaults()
def build_rotation_head(dimension: int, *, dtype="float32") -> tf.keras.Model:
    """Build the rotation classifier, one dense layer that starts at 0.

    Args:
      dimension: number of dimensions of the embeddings.
      dtype: dtype policy of the embeddings.

    Returns:
      A model from embeddings float [n, dimension] to logits [n, 4]; they are float32, or float64 with that dtype.
    """
    inputs = layers.Input((dimension,))
    logits = layers.Dense(ROTATIONS, kernel_initializer="zeros", dtype=_wide(dtype))(inputs)
    return tf.keras.Model(inputs, logits, name="rotation_head")


def _wide(dtype) -> str:
    """Return the dtype of outputs, which mixed precision does not narrow."""
    return "float64" if dtype == "float64" else "float32"


def _stage_end(x, stage: int):
    """Mark the feature map that ends a stage, for `embeddings.stage_maps`."""
    return layers.Activation("linear", dtype=x.dtype, name=f"{STAGE}{stage}")(x)


class _Seeds:
    """Initializers whose seeds follow from a seed, a name and the order of the calls, without global state."""

    def __init__(self, seed: int, name: str):
        self._generator = np.random.default_rng([seed, *name.encode()])

    def _next(self) -> int:
        return int(self._generator.integers(2**31))

    def he_normal(self):
        return tf.keras.initializers.HeNormal(seed=self._next())

    def glorot_uniform(self):
        return tf.keras.initializers.GlorotUniform(seed=self._next())


class _BlockBuilder:
    """Builds the parts of a residual network with one dtype policy."""

    def __init__(self, seed: int, dtype):
        self.seeds = _Seeds(seed, "encoder")
        self.dtype = dtype

    def convolution(self, x, channels, kernel, strides=1, activation=True):
        """Apply a convolution, batch normalization and, if asked for, ReLU."""
        if kernel == 1 and strides > 1 and x.shape[-1] < _ONEDNN_BLOCK:
            # The same result, slower, and right with oneDNN, whose gradient of a strided 1x1 convolution with fewer
            # channels than its block is wrong and differs from run to run (uxlfoundation/oneDNN#6035).
            x, strides = x[:, ::strides, ::strides, :], 1
        x = layers.Conv2D(
            channels,
            kernel,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer=self.seeds.he_normal(),
            dtype=self.dtype,
        )(x)
        x = SynchronizedBatchNormalization(dtype=_wide(self.dtype))(x)
        return layers.ReLU(dtype=self.dtype)(x) if activation else x

    def residual_block(self, x, channels, strides, bottleneck):
        """Apply two 3x3 convolutions, or 1x1, 3x3 and 1x1 with four times the channels, around a shortcut."""
        out = channels * 4 if bottleneck else channels
        shortcut = x
        if strides != 1 or x.shape[-1] != out:
            shortcut = self.convolution(x, out, 1, strides, activation=False)
        if bottleneck:
            x = self.convolution(x, channels, 1)
            x = self.convolution(x, channels, 3, strides)
            x = self.convolution(x, out, 1, activation=False)
        else:
            x = self.convolution(x, channels, 3, strides)
            x = self.convolution(x, out, 3, activation=False)
        return layers.ReLU(dtype=self.dtype)(layers.Add(dtype=self.dtype)([x, shortcut]))
