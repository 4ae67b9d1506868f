"""Encoder, projection head and loss."""

from flags.define import define
from mcl_tf.config import LossConfig, ModelConfig

define(
    ModelConfig,
    encoder="Network that embeds a picture; `small`, for CPUs, has three stages of 16, 32 and 64 channels.",
    width="Factor on the channels of every layer of the encoder.",
    projection_hidden="Units of the projection head's hidden layer.",
    projection_dim="Dimensions of the projection that the loss sees.",
)
define(
    LossConfig,
    alpha="Factor of the similarity of two pictures with the same class and rotation.",
    beta="Factor of the similarity of two pictures with the same class and different rotations; unset, it is 2 "
    "with --labelled and 1 / temperature without.",
    temperature="Temperature of the contrastive loss.",
    spa_weight="Weight of the stochastic positive attraction beside the class-conditional loss.",
)
