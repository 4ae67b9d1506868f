"""The scorer: network, Gaussians and threshold in one Keras model.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import threadpoolctl

from mcl_tf import scoring, views
from mcl_tf.config import ScoringConfig
from mcl_tf.data import arrays
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.utils import parallel
from mcl_tf.utils.console import tracked

_OWN = ("means", "whitenings", "threshold")  # weights of the scorer beside those of the network


class SelfEnsembleScorer(tf.keras.Model):
    """Embeds the views of an image, measures their distances to the Gaussians and combines them into a score.

    Network, Gaussians and threshold are weights of the model, so that they are saved, loaded and exported together.
    `embed` and `distances` work on one batch, also in a graph; `fit_gaussians`, `all_distances` and `scores` loop over
    any number of images.

    Args:
      network: Keras model float [n, s, s, 3] in [0, 1] -> [n, D].
      config: views, method, shrinkage and batch size.
      num_classes: the number of classes C.
    """

    def __init__(self, network, config: ScoringConfig, num_classes: int):
        super().__init__(name="scorer", dtype="float32")
        self.network = network
        self.config = config
        self.image_size = network.input_shape[1]
        dimension = network.output_shape[-1]
        shape = (views.ROTATIONS, num_classes, dimension)
        self.means = self._constant("means", shape)
        self.whitenings = self._constant("whitenings", (*shape, dimension))
        self.threshold = self._constant("threshold", ())
        self.built = True
        self._functions: dict[str, Any] = {}

    def _constant(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False, dtype="float32")

    @property
    def num_classes(self) -> int:
        """The number of classes C."""
        return self.means.shape[1]

    def embed(self, images, count: int):
        """Embed the views of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size; n may be 0.
          count: the number of views: 8, 4 or 1.

        Returns:
          float32 [n, count, D], normalized.
        """
        images = views.prepare(images, self.image_size)
        length = tf.shape(images)[0]
        # oneDNN's fused convolutions fail on an empty batch, so pad it with one image.
        padding = tf.zeros([tf.cast(length == 0, tf.int32), *images.shape[1:]], tf.uint8)
        inputs = views.to_float(views.self_ensemble_views(tf.concat([images, padding], 0), count))
        embeddings = self.network(inputs, training=False)
        embeddings = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=-1)
        return tf.reshape(embeddings, [-1, count, self.network.output_shape[-1]])[:length]

    def distances(self, images):
        """Compute the distances of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size.

        Returns:
          float32 [n, V, C], Mahalanobis distance of every view to every class.
        """
        count = self.config.views
        gaussians = ClassConditionalGaussians(self.means, self.whitenings)
        return gaussians.distances(self.embed(images, count), views.view_rotations(count))

    def fit_gaussians(self, images, labels, visible: bool = True) -> None:
        """Fit the Gaussians to the embeddings of all eight views of training images, batch by batch.

        Args:
          images: uint8 [n, s, s, 3], array at the network's size.
          labels: int [n], 0 to C - 1.
          visible: whether to show a progress bar on a terminal.

        Raises:
          UsageError: see `ClassConditionalGaussians.fit`.
        """
        rotations = np.array(views.view_rotations(8))
        embed = self._function("embed", lambda batch: self.embed(batch, 8))
        size = parallel.per_thread(self.config.scoring_batch_size)
        starts = range(0, len(images), size)
        embeddings = parallel.map_in_order(
            lambda start: embed(tf.constant(images[start : start + size])).numpy(), starts
        )

        def batches():
            # NumPy's idle threads spin and would keep the cores from the network.
            with threadpoolctl.threadpool_limits(1, user_api="blas"):
                for start, batch in zip(
                    starts, tracked(embeddings, "Fitting Gaussians", len(starts), visible), strict=True
                ):
                    repeated = np.repeat(labels[start : start + size], 8)
                    yield batch.reshape(-1, batch.shape[-1]), repeated, np.tile(rotations, len(batch))

        fitted = ClassConditionalGaussians.fit_batches(
            batches(), num_classes=self.num_classes, shrinkage=self.config.shrinkage
        )
        self.means.assign(fitted.means)
        self.whitenings.assign(fitted.whitenings)

    def all_distances(self, images, visible: bool = True) -> np.ndarray:
        """Compute the distances of any number of images, batch by batch.

        Args:
          images: uint8 array [n, h, w, c] or `tf.data.Dataset` of images, see `AnomalyDetector`.
          visible: whether to show a progress bar on a terminal.

        Returns:
          float32 [n, V, C], Mahalanobis distance of every view to every class.
        """
        compute = self._function("distances", self.distances)
        size = parallel.per_thread(self.config.scoring_batch_size)
        batches = arrays.scoring_batches(images, size, self.image_size)
        results = parallel.map_in_order(lambda batch: compute(batch).numpy(), batches)
        parts = list(tracked(results, "Scoring", visible=visible))
        return np.concatenate(parts) if parts else np.zeros((0, self.config.views, self.num_classes), np.float32)

    def scores(self, images, visible: bool = True) -> np.ndarray:
        """Return the anomaly scores float32 [n] of any number of images, see `all_distances`."""
        return scoring.self_ensemble(self.all_distances(images, visible), self.config.method)[0].numpy()

    def state(self) -> dict[str, Any]:
        """Return all weights by name; unlike Keras' weight files, both TensorFlow stacks read them."""
        own = {name: np.asarray(getattr(self, name)) for name in _OWN}
        return {**own, **{f"network/{i:04d}": weight for i, weight in enumerate(self.network.get_weights())}}

    def set_state(self, state) -> None:
        """Set all weights from the result of `state`.

        Args:
          state: {name: array}.

        Raises:
          ValueError: names or shapes differ; the message names the first difference.
        """
        for name, mine in self.state().items():
            shape = np.shape(state[name]) if name in state else "nothing"
            if shape != mine.shape:
                raise ValueError(f"{name} should have the shape {mine.shape}. Received: {shape}")
        for name in _OWN:
            getattr(self, name).assign(state[name])
        self.network.set_weights([state[name] for name in sorted(state) if name.startswith("network/")])

    def with_network(self, network) -> SelfEnsembleScorer:
        """Return a copy with the same Gaussians and threshold, and another network of the same shapes."""
        scorer = SelfEnsembleScorer(network, self.config, self.num_classes)
        for name in _OWN:
            getattr(scorer, name).assign(getattr(self, name))
        return scorer

    def _function(self, name, function):
        """Return the function as a graph, which is traced once."""
        if name not in self._functions:
            self._functions[name] = tf.function(function, reduce_retracing=True)
        return self._functions[name]
