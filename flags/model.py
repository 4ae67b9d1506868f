"""Encoder, projection head and loss."""

from flags.define import define
from mcl_tf.config import LossConfig, ModelConfig

define(
    ModelConfig,
    encoder="Network that embeds an image. `compact` and `small` are for CPUs. mobilenet_v3_small, efficientnetv2_b0, "
    "convnext_tiny and, with --encoder_weights, resnet50 are those of keras.applications. A file holds a saved Keras "
    "model from images [n, s, s, 3] in [0, 1] to one or several vectors.",
    encoder_weights="Initial weights of an encoder of keras.applications: `imagenet`, which Keras downloads, or a "
    "file. Random if empty. An encoder from a file has its own weights.",
    freeze_encoder="Keep the encoder as it is and only fit the Gaussians: takes seconds, for pretrained encoders.",
    standardize="Give every image the same mean and contrast before an encoder that is not pretrained.",
    width="Factor on the number of channels of every layer of the encoder.",
    projection_hidden="Number of units in the hidden layer of the projection head.",
    projection_dim="Number of dimensions of the projection, which the loss compares.",
)
define(
    LossConfig,
    loss="Contrastive loss: `masked` is that of the method; `nt_xent` is that of SimCLR, which knows neither classes "
    "nor rotations and has no --alpha, --beta and --spa_weight.",
    alpha="Factor on the similarity of two images with the same class and rotation.",
    beta="Factor on the similarity of two images with the same class and different rotations; by default 2 with "
    "--labelled and 1 / temperature without.",
    temperature="Temperature of the contrastive loss.",
    spa_weight="Weight of the stochastic positive attraction; the class-conditional loss has weight 1.",
    rotation_weight="Weight of a rotation classifier beside the contrast; 0, as in the paper, for none.",
)
