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
from mcl_tf.utils import memory, parallel
from mcl_tf.utils.console import tracked

_OWN = ("means", "whitenings", "standardization", "threshold")  # weights of the scorer beside those of the network
_STANDARDIZED = 2000  # number of training images that the units of the score are measured on
_SHARE = 0.5  # of the free memory that a batch may take


class SelfEnsembleScorer(tf.keras.Model):
    """Embeds the views of an image, measures their distances to the Gaussians and combines them into a score.

    The score is the self-ensemble of the distances. With `evidence`, the rotation evidence is added to it, both in
    units of their spread over the training images. Network, Gaussians, units and threshold are weights of the model, so
    that they are saved, loaded and exported together.

    `embed`, `distances` and `score_batch` work on one batch, also in a graph; `fit_gaussians`, `evaluate_images` and
    `scores` loop over any number of images.

    Args:
      network: Keras model float [n, s, s, 3] in [0, 1] -> [n, D].
      config: views, method, evidence, shrinkage and batch size.
      num_classes: the number of classes C.
      knows_rotations: whether the network was trained on rotations. A network that was not has one Gaussian per class,
        of upright images, and no rotation evidence.
    """

    def __init__(self, network, config: ScoringConfig, num_classes: int, knows_rotations: bool = True):
        super().__init__(name="scorer", dtype="float32")
        self.network = network
        self.config = config
        self.image_size = network.input_shape[1]
        self.view_count = config.views or (8 if knows_rotations else 2)
        self.evidence = config.evidence and knows_rotations
        dimension = network.output_shape[-1]
        shape = (views.ROTATIONS if knows_rotations else 1, num_classes, dimension)
        self.means = self._constant("means", shape)
        self.whitenings = self._constant("whitenings", (*shape, dimension))
        self.standardization = self._constant("standardization", (2, 2))  # (center, scale) of distance and evidence
        self.threshold = self._constant("threshold", ())
        self.built = True
        self._functions: dict[str, Any] = {}

    def _constant(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False, dtype="float32")

    @property
    def num_classes(self) -> int:
        """The number of classes C."""
        return self.means.shape[1]

    @property
    def knows_rotations(self) -> bool:
        """Whether there is a Gaussian per rotation."""
        return self.means.shape[0] == views.ROTATIONS

    @property
    def rotations(self) -> list[int]:
        """The rotation of every view."""
        return views.view_rotations(self.view_count)

    def embed(self, images, count: int):
        """Embed the views of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size; n may be 0.
          count: the number of views: 8, 4, 2 or 1.

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
          float32 [n, V, C], Mahalanobis distance of every view to the Gaussian of its rotation and every class.
        """
        return self._gaussians().distances(self.embed(images, self.view_count), self.rotations)

    def score_batch(self, images):
        """Score one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size.

        Returns:
          A dictionary of `score` float32 [n], higher for more anomalous images; `nearest_class` int32 [n]; `distances`
          float32 [n, V, C].
        """
        if not self.evidence:
            distances = self.distances(images)
            scores, classes = scoring.self_ensemble(distances, self.config.method)
            return {"score": scores, "nearest_class": classes, "distances": distances}
        distances, similarity, evidence, classes = self._parts(self.embed(images, self.view_count))
        center, scale = tf.unstack(tf.convert_to_tensor(self.standardization), axis=1)
        scores = tf.reduce_sum((tf.stack([similarity, evidence], axis=1) - center) / scale, axis=1)
        return {"score": scores, "nearest_class": classes, "distances": distances}

    def _gaussians(self) -> ClassConditionalGaussians:
        return ClassConditionalGaussians(self.means, self.whitenings)

    def _parts(self, embeddings):
        """Return the own distances [n, V, C], self-ensemble [n], rotation evidence [n] and class [n] of embeddings."""
        to_all = self._gaussians().distances_to_all(embeddings)
        distances = tf.stack([to_all[:, view, rotation] for view, rotation in enumerate(self.rotations)], axis=1)
        scores, classes = scoring.self_ensemble(distances, self.config.method)
        return distances, scores, scoring.rotation_evidence(to_all, self.rotations, classes), classes

    def fit_gaussians(self, images, labels, visible: bool = True) -> None:
        """Fit the Gaussians, and the units of the score, to training images, batch by batch.

        Args:
          images: uint8 [n, s, s, 3], array at the network's size.
          labels: int [n], 0 to C - 1.
          visible: whether to show a progress bar on a terminal.

        Raises:
          UsageError: see `ClassConditionalGaussians.fit`.
        """
        count = 8 if self.knows_rotations else 2
        rotations = np.array(views.view_rotations(count))
        embed = self._function("embed", lambda batch: self.embed(batch, count))
        size = self._batch_size(count)
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
                    repeated = np.repeat(labels[start : start + size], count)
                    yield batch.reshape(-1, batch.shape[-1]), repeated, np.tile(rotations, len(batch))

        fitted = ClassConditionalGaussians.fit_batches(
            batches(),
            num_classes=self.num_classes,
            num_rotations=self.means.shape[0],
            shrinkage=self.config.shrinkage,
        )
        self.means.assign(fitted.means)
        self.whitenings.assign(fitted.whitenings)
        if self.evidence:
            self._fit_units(images[np.linspace(0, len(images) - 1, min(len(images), _STANDARDIZED)).astype(int)])

    def _fit_units(self, images) -> None:
        """Measure center and spread of self-ensemble and evidence over images."""
        compute = self._function("parts", lambda batch: self._parts(self.embed(batch, self.view_count))[1:3])
        size = self._batch_size(self.view_count)
        batches = (tf.constant(images[start : start + size]) for start in range(0, len(images), size))
        parts = [[part.numpy() for part in compute(batch)] for batch in batches]
        values = np.concatenate(parts, axis=1).astype(np.float64)
        scale = np.maximum(values.std(axis=1), 1e-6 * np.maximum(np.abs(values).mean(axis=1), 1e-6))
        self.standardization.assign(np.stack([values.mean(axis=1), scale], axis=1))

    def evaluate_images(self, images, visible: bool = True) -> dict[str, np.ndarray]:
        """Score any number of images, batch by batch.

        Args:
          images: uint8 array [n, h, w, c] or `tf.data.Dataset` of images, see `AnomalyDetector`.
          visible: whether to show a progress bar on a terminal.

        Returns:
          {name: array}, see `score_batch`.
        """
        compute = self._function("score_batch", self.score_batch)
        batches = arrays.scoring_batches(images, self._batch_size(self.view_count), self.image_size)

        def score(batch):
            return {name: value.numpy() for name, value in compute(batch).items()}

        parts = list(tracked(parallel.map_in_order(score, batches), "Scoring", visible=visible))
        if not parts:
            parts = [score(tf.zeros([0, self.image_size, self.image_size, 3], tf.uint8))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def scores(self, images, visible: bool = True) -> np.ndarray:
        """Return the anomaly scores float32 [n] of any number of images, see `evaluate_images`."""
        return self.evaluate_images(images, visible)["score"]

    def _batch_size(self, count: int) -> int:
        """Return the number of images per thread with `count` views each; fewer than configured if memory is short."""
        free = memory.available()
        size = self.config.scoring_batch_size
        if free is not None and not tf.config.list_logical_devices("GPU"):
            size = min(size, int(_SHARE * free / (count * memory.inference_bytes_per_view(self.network))))
        return parallel.per_thread(max(size, 1))

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
        if not self.evidence:  # detectors of the first development version have no units
            state = {"standardization": np.zeros((2, 2), np.float32), **state}
        for name, mine in self.state().items():
            shape = np.shape(state[name]) if name in state else "nothing"
            if shape != mine.shape:
                raise ValueError(f"{name} should have the shape {mine.shape}. Received: {shape}")
        for name in _OWN:
            getattr(self, name).assign(state[name])
        self.network.set_weights([state[name] for name in sorted(state) if name.startswith("network/")])

    def with_network(self, network) -> SelfEnsembleScorer:
        """Return a copy with the same Gaussians and threshold, and another network of the same shapes."""
        scorer = SelfEnsembleScorer(network, self.config, self.num_classes, self.knows_rotations)
        for name in _OWN:
            getattr(scorer, name).assign(getattr(self, name))
        return scorer

    def _function(self, name, function):
        """Return the function as a graph, which is traced once."""
        if name not in self._functions:
            self._functions[name] = tf.function(function, reduce_retracing=True)
        return self._functions[name]
