"""What the Gaussians see of a network: its output, its projection, or the joint statistics of its stages.

A stage's feature map is summarized by the mean and the standard deviation of every channel. Early stages know texture
and colour, late ones shapes; together they find more than the last one alone (benchmarks/quality.md).

Of an encoder from elsewhere, the last three stages count: it was trained to tell objects, and its early stages add more
dimensions than knowledge. Its deviations over few places are noise in as many dimensions as the means have.
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.networks import STAGE
from mcl_tf.patches import PatchFeatures, middle_stages
from mcl_tf.utils import compat

MAX_DIMENSION = 4096  # of a joint embedding; a covariance of twice as many dimensions takes a gigabyte
# Of an encoder from elsewhere: the number of stages, and the places of a map whose standard deviations count.
LAST_STAGES, MIN_PLACES = 3, 16
_EPSILON = 1e-6  # keeps the gradient and the value of a standard deviation finite


@compat.keras_defaults()
def embedding_network(encoder, projection_head, kind: str, with_patches: bool = False) -> tf.keras.Model:
    """Return the network whose outputs the Gaussians are fitted to; it shares the encoder's weights.

    Args:
      encoder: functional Keras model [n, s, s, 3] -> [n, E].
      projection_head: Keras model [n, E] -> [n, D].
      kind: "stages", "encoder" or "projection". An encoder without feature maps has no stages; its output is used.
      with_patches: whether to give the features of the places, too, see `PatchFeatures`; only for an encoder that has
        feature maps of a suitable size.

    Returns:
      A model float [n, s, s, 3] in [0, 1] -> float32 [n, D], not normalized as a whole, or a list of this and of the
      features of the places float32 [n, h, w, d].
    """
    maps = stage_maps(encoder)
    middle = middle_stages(maps, encoder.input_shape[1]) if with_patches else []
    if kind == "projection":
        embedding = projection_head(encoder.outputs[0])
    else:
        stages, min_places = (maps, 1) if _has_named_stages(encoder) else (maps[-LAST_STAGES:], MIN_PLACES)
        embedding = _pooled(stages, min_places) if kind == "stages" and maps else encoder.outputs[0]
    if middle:
        embedding = [embedding, PatchFeatures(name="patch_features")(middle)]
    elif embedding is encoder.outputs[0]:
        return encoder
    return tf.keras.Model(encoder.inputs[0], embedding, name="embedding")


def _pooled(maps, min_places: int):
    """Return the joint statistics of symbolic feature maps; deviations are those of maps of enough places."""
    channels = [int(m.shape[-1]) for m in maps]
    # Beyond the limit, wide stages give their means only.
    budget = MAX_DIMENSION - sum(channels)
    with_deviation = [False] * len(maps)
    for index in sorted(range(len(maps)), key=channels.__getitem__):
        if int(maps[index].shape[1]) * int(maps[index].shape[2]) >= min_places:
            with_deviation[index] = channels[index] <= budget
            budget -= channels[index]
    return StageStatistics(with_deviation, name="stage_statistics")(maps)


def stage_maps(encoder) -> list:
    """Return the last feature map of every stage of a functional model, largest first.

    A stage ends where the resolution is halved. Layers named `stage_<n>` mark the stages of our own encoders, whose
    first two may have the same resolution.

    Args:
      encoder: functional Keras model.

    Returns:
      List of symbolic tensors [n, h, w, c].
    """
    if _has_named_stages(encoder):
        return [layer.output for layer in encoder.layers if layer.name.startswith(STAGE)]
    side, last = encoder.input_shape[1], {}
    # The output of a model within the model belongs to another graph.
    for layer in (layer for layer in encoder.layers if not hasattr(layer, "layers")):
        outputs = layer.output if isinstance(layer.output, (list, tuple)) else [layer.output]
        for output in outputs:
            if len(output.shape) == 4 and output.shape[-1] > 3:
                last[tuple(output.shape[1:3])] = output
    # Padded maps and squeeze-and-excitation vectors have other sides.
    sides = [-(-side // 2**power) for power in range(8)]
    return [last[height, height] for height in sides if height > 1 and (height, height) in last]


def _has_named_stages(encoder) -> bool:
    return any(layer.name.startswith(STAGE) for layer in encoder.layers)


@tf.keras.utils.register_keras_serializable("mcl_tf")
class StageStatistics(tf.keras.layers.Layer):
    """Joins the channel means and standard deviations of several feature maps, each vector normalized to length 1.

    Args:
      with_deviation: list of bools, whether a map contributes its standard deviations, too.
      **kwargs: arguments of `tf.keras.layers.Layer`.
    """

    def __init__(self, with_deviation, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32", "autocast": False})
        self.with_deviation = list(with_deviation)

    def call(self, maps):
        """Map a list of float [n, h, w, c] to float32 [n, D]."""
        vectors = []
        for features, with_deviation in zip(maps, self.with_deviation, strict=True):
            features = tf.cast(features, tf.float32)
            mean = tf.reduce_mean(features, axis=[1, 2], keepdims=True)
            vectors.append(mean[:, 0, 0])
            if with_deviation:
                variance = tf.reduce_mean(tf.square(features - mean), axis=[1, 2])
                vectors.append(tf.sqrt(variance + _EPSILON))
        return tf.concat([tf.math.l2_normalize(vector, axis=-1) for vector in vectors], axis=-1)

    def compute_output_shape(self, input_shape):
        """Return the shape of the result."""
        pairs = zip(input_shape, self.with_deviation, strict=True)
        return (input_shape[0][0], sum(int(shape[-1]) * (1 + deviation) for shape, deviation in pairs))

    def get_config(self):
        """Return the constructor arguments."""
        return {**super().get_config(), "with_deviation": self.with_deviation}

    @classmethod
    def from_config(cls, config):
        """Create a layer from the result of `get_config`."""
        return cls(**{name: value for name, value in config.items() if name not in ("dtype", "autocast")})
