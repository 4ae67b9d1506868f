"""The scorer: pictures in, anomaly scores out, with everything that this takes as its weights.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf import gaussians, scoring, views
from mcl_tf.config import ScoringConfig

_OWN = ("means", "whitenings", "threshold")  # weights of the scorer beside the network's


class SelfEnsembleScorer(tf.keras.Model):
    """Embeds the views of a picture, measures their distances to the Gaussians and joins them into a score.

    Network, Gaussians and threshold are its weights: they are saved, loaded and exported together.

    Args:
      network: model float [n, s, s, 3] in [0, 1] -> [n, D].
      config: views, method.
      num_classes: the number of classes C.
    """

    def __init__(self, network, config: ScoringConfig, num_classes: int):
        super().__init__(name="scorer")
        self.network = network
        self.config = config
        self.image_size = network.input_shape[1]
        dimension = network.output_shape[-1]
        shape = (views.ROTATIONS, num_classes, dimension)
        self.means = self._constant("means", shape)
        self.whitenings = self._constant("whitenings", (*shape, dimension))
        self.threshold = self._constant("threshold", ())
        self.built = True

    def _constant(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False, dtype="float32")

    def set_gaussians(self, fitted: gaussians.ClassConditionalGaussians) -> None:
        """Takes over fitted Gaussians."""
        self.means.assign(fitted.means)
        self.whitenings.assign(fitted.whitenings)

    def arrays(self) -> dict[str, Any]:
        """All weights by name, the same on both TensorFlow stacks, which Keras' own weight files are not."""
        own = {name: np.asarray(getattr(self, name)) for name in _OWN}
        return {**own, **{f"network/{i:04d}": weight for i, weight in enumerate(self.network.get_weights())}}

    def set_arrays(self, arrays) -> None:
        """Takes over what `arrays` gave.

        Raises:
          ValueError: other names or shapes; the message names the first difference.
        """
        for name, mine in self.arrays().items():
            found = np.shape(arrays[name]) if name in arrays else "nothing"
            if found != mine.shape:
                raise ValueError(f"{name} should have the shape {mine.shape}. Received: {found}")
        for name in _OWN:
            getattr(self, name).assign(arrays[name])
        self.network.set_weights([arrays[name] for name in sorted(arrays) if name.startswith("network/")])

    def with_network(self, network) -> SelfEnsembleScorer:
        """A copy with the same Gaussians and threshold, and another network of the same form."""
        scorer = SelfEnsembleScorer(network, self.config, self.means.shape[1])
        for name in _OWN:
            getattr(scorer, name).assign(getattr(self, name))
        return scorer

    def embed(self, images, count: int):
        """uint8 [n, h, w, c] of any size -> normalised float32 [n, count, D] of 8, 4 or 1 views, one batch."""
        pictures = views.prepare(images, self.image_size)
        asked = tf.shape(pictures)[0]
        # oneDNN's fused convolutions fail on no pictures: there is one at least.
        nothing = tf.zeros([tf.cast(asked == 0, tf.int32), *pictures.shape[1:]], tf.uint8)
        pictures = tf.concat([pictures, nothing], 0)
        inputs = views.to_float(views.self_ensemble_views(pictures, count))
        embeddings = self.network(inputs, training=False)
        embeddings = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=-1)
        return tf.reshape(embeddings, [-1, count, self.network.output_shape[-1]])[:asked]

    def distances(self, images):
        """uint8 [n, h, w, c] -> Mahalanobis distances float32 [n, V, C] of every view to every class."""
        count, classes = self.config.views, self.means.shape[1]
        turns = len(set(views.view_rotations(count)))
        embeddings = self.embed(images, count)
        # The views of one rotation lie side by side; in this order few operations do, which one picture waits for.
        by_picture = tf.reshape(embeddings, [-1, turns, count // turns, embeddings.shape[-1]])
        by_rotation = tf.reshape(tf.transpose(by_picture, (1, 0, 2, 3)), [turns, -1, embeddings.shape[-1]])
        distances = gaussians.mahalanobis(by_rotation, self.means[:turns], self.whitenings[:turns])
        by_rotation = tf.reshape(distances, [turns, -1, count // turns, classes])
        return tf.reshape(tf.transpose(by_rotation, (1, 0, 2, 3)), [-1, count, classes])

    def call(self, images):
        """uint8 [n, h, w, c] -> score float32 [n], is_anomaly bool [n], nearest_class int32 [n]."""
        scores, classes = scoring.self_ensemble(self.distances(images), self.config.method)
        return {"score": scores, "is_anomaly": scores > self.threshold, "nearest_class": classes}
