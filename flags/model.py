"""Encoder, projection head and loss."""

from flags.define import define
from mcl_tf.config import LossConfig, ModelConfig

define(
    ModelConfig,
    encoder="Network that embeds an image; `small`, for CPUs, has three stages of 16, 32 and 64 channels.",
    width="Factor on the number of channels of every layer of the encoder.",
    projection_hidden="Number of units in the hidden layer of the projection head.",
    projection_dim="Number of dimensions of the projection, which the loss compares.",
)
define(
    LossConfig,
    alpha="Factor on the similarity of two images with the same class and rotation.",
    beta="Factor on the similarity of two images with the same class and different rotations; by default 2 with "
    "--labelled and 1 / temperature without.",
    temperature="Temperature of the contrastive loss.",
    spa_weight="Weight of the stochastic positive attraction; the class-conditional loss has weight 1.",
)
