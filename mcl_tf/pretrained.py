"""Encoders from elsewhere: those of `keras.applications`, and saved Keras models.

Every encoder takes images float [n, s, s, 3] in [0, 1] and gives one vector per image.
"""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError, one_line
from mcl_tf.normalization import ImageStandardization
from mcl_tf.utils import compat

layers = tf.keras.layers

# Name of the class, and the preprocessing that it does not do by itself.
_APPLICATIONS = {
    "mobilenet_v3_small": ("MobileNetV3Small", None),
    "efficientnetv2_b0": ("EfficientNetV2B0", None),
    "resnet50": ("ResNet50", "caffe"),
    "convnext_tiny": ("ConvNeXtTiny", None),
}
_CAFFE_MEANS = (103.939, 116.779, 123.68)  # of blue, green and red in ImageNet, which Keras' ResNet50 subtracts
_MEAN, _DEVIATION = 0.45, 0.225  # of the grey levels of ImageNet, roughly
MIN_SIZE = 32  # pixels; smaller images vanish in the network


@compat.generators_kept()
def build_application(
    name: str, image_size: int, weights: str, *, seed: int = 0, standardize: bool = False
) -> tf.keras.Model:
    """Build an encoder of `keras.applications`.

    Args:
      name: one of `config.APPLICATIONS`.
      image_size: side of the images in pixels, at least 32.
      weights: "imagenet", a file of weights without the classifier, or "" for random weights.
      seed: of random weights, and of the layers that draw random numbers in training.
      standardize: whether every image gets the mean and contrast that photographs have, see `ImageStandardization`.

    Returns:
      A model from images float [n, s, s, 3] in [0, 1] to embeddings float32 [n, D].

    Raises:
      UsageError: the images are too small, or the weights are not available.
    """
    if image_size < MIN_SIZE:
        raise UsageError(f"{name} needs an image_size of at least {MIN_SIZE}. Received: {image_size}")
    if name == "convnext_tiny" and not compat.KERAS_3:
        raise UsageError("convnext_tiny needs Keras 3: that of Keras 2 ignores its preprocessing. Received: Keras 2")
    if weights not in ("", "imagenet") and not os.path.isfile(weights):
        raise UsageError(f"encoder_weights must be imagenet or a file. Received: {weights}, which does not exist")
    class_name, preprocessing = _APPLICATIONS[name]
    inputs = layers.Input((image_size, image_size, 3))
    pixels = ImageStandardization(_MEAN, _DEVIATION)(inputs) if standardize else inputs
    if preprocessing == "caffe":
        pixels = layers.Rescaling(255.0, offset=[-mean for mean in _CAFFE_MEANS])(pixels[:, :, :, ::-1])
    else:
        pixels = layers.Rescaling(255.0)(pixels)
    try:
        build = getattr(tf.keras.applications, class_name)
        model = build(include_top=False, weights=weights or None, input_tensor=pixels, pooling="avg")
    except Exception as error:  # noqa: BLE001 - downloads and files fail in many ways
        raise UsageError(
            f"The weights of {name} are not available: {one_line(error, 160)}. Where there is a network, Keras "
            "downloads them to ~/.keras/models; copy the file (..._notop.h5) here and pass it as encoder_weights. "
            f"Received: {weights}"
        ) from None
    if not weights:
        _initialize(model, seed)
    compat.seed_layers(model, seed)
    return tf.keras.Model(inputs, model.outputs[0], name="encoder")


@compat.generators_kept()
def load_encoder(path: str, image_size: int, *, seed: int = 0) -> tf.keras.Model:
    """Load an encoder from a file.

    Args:
      path: a Keras model saved as FILE.keras, from images float [n, s, s, 3] in [0, 1] to a vector or several vectors,
        which are normalized and joined. Feature maps are averaged.
      image_size: side of the images in pixels.
      seed: of the layers that draw random numbers in training.

    Returns:
      A model from images float [n, s, s, 3] in [0, 1] to embeddings float32 [n, D].

    Raises:
      UsageError: the file is not such a model.
    """
    try:
        model = tf.keras.models.load_model(os.path.expanduser(path), compile=False)
    except Exception as error:  # noqa: BLE001 - a file that is not a model fails in many ways
        raise UsageError(f"The encoder {path} cannot be loaded: {one_line(error, 160)}") from None
    names = _FreeNames(model)
    inputs = layers.Input((image_size, image_size, 3), name=names.take("images"))
    try:
        if hasattr(model, "layers") and getattr(model, "inputs", None) and len(model.inputs) == 1:
            # A copy with sides that are known keeps the layers, and with them the stages, reachable.
            sequential = isinstance(model, tf.keras.Sequential)
            structure = inputs if sequential else tf.nest.pack_sequence_as(model.input, [inputs])  # or a list, a dict
            copy = tf.keras.models.clone_model(model, structure)
            copy.set_weights(model.get_weights())
            outputs = copy.outputs
        else:
            outputs = tf.nest.flatten(model(inputs))
    except (ValueError, TypeError, AssertionError, tf.errors.OpError) as error:  # Keras 2 asserts
        raise UsageError(
            f"The encoder {path} must map images [n, {image_size}, {image_size}, 3] to vectors: {one_line(error, 160)}"
        ) from None
    shapes = [tuple(output.shape) for output in outputs]
    if any(len(shape) not in (2, 4) for shape in shapes):
        raise UsageError(f"The outputs of the encoder {path} must be vectors [n, d]. Received: shapes {shapes}")
    vectors = [
        layers.GlobalAveragePooling2D(name=names.take("pooled"))(output) if len(output.shape) == 4 else output
        for output in outputs
    ]
    if len(vectors) > 1:
        vectors = [layers.UnitNormalization(name=names.take("normalized"))(vector) for vector in vectors]
        vectors = [layers.Concatenate(name=names.take("joined"))(vectors)]
    output = layers.Activation("linear", dtype="float32", name=names.take("vector"))(vectors[0])
    encoder = tf.keras.Model(inputs, output, name="encoder")
    compat.seed_layers(encoder, seed)
    return encoder


class _FreeNames:
    """Names for layers that are added to a model, which may have any names, also those that Keras gives by itself."""

    def __init__(self, model):
        self._taken = {layer.name for layer in getattr(model, "layers", ())} | {model.name}

    def take(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def freeze_batch_normalization(encoder) -> None:
    """Hold the statistics of batch normalization, which a few similar images would spoil."""
    for layer in encoder.layers:
        if isinstance(layer, tf.keras.Model):
            freeze_batch_normalization(layer)
        elif isinstance(layer, tf.keras.layers.BatchNormalization):
            layer.trainable = False


def _initialize(model, seed: int) -> None:
    """Draw random weights that follow from a seed; Keras draws them from global state."""
    generator = np.random.default_rng([seed, *b"encoder"])
    for weight in model.weights:
        if len(weight.shape) > 1:
            initializer = tf.keras.initializers.GlorotUniform(seed=int(generator.integers(2**31)))
            weight.assign(initializer(tuple(weight.shape)))
