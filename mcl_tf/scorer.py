"""The scorer: network, Gaussians, texture and threshold in one Keras model.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import threadpoolctl

from mcl_tf import scoring, views
from mcl_tf.config import Config, ScoringConfig
from mcl_tf.data import arrays
from mcl_tf.embeddings import embedding_network
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.texture import TextureDescriptor
from mcl_tf.utils import compat, memory, parallel
from mcl_tf.utils.console import tracked

_SHARE = 0.5  # of the free memory that a batch may take
_PARTS = ("distance", "evidence", "image", "texture")  # what is measured in units of its spread
# Two networks had a mean AUROC of 80.4 on classes 0, 3, 5 and 8 of CIFAR-10 without evidence, 81.6 with this weight,
# and 81.4 with 1.
EVIDENCE_WEIGHT = 0.5
_FEW = 5  # held-out images below which training images give the units


class SelfEnsembleScorer(tf.keras.Model):
    """Embeds the views of an image, measures their distances to the Gaussians and combines them into a score.

    The score of the image as a whole is the self-ensemble of its distances. With `evidence`, half of the rotation
    evidence is added, each in units of its spread over normal images. The local score is the distance of the texture
    descriptor.
    Network, Gaussians, units and threshold are weights of the model, so that they are saved, loaded and exported
    together.

    `embed`, `distances` and `score_batch` work on one batch, also in a graph; `fit_gaussians`, `fit_units`,
    `evaluate_images` and `scores` loop over any number of images.

    Args:
      network: Keras model float [n, s, s, 3] in [0, 1] -> [n, D]; None for a local score alone.
      config: views, method, evidence, score, shrinkage and batch size.
      num_classes: the number of classes C.
      knows_rotations: whether the network was trained on rotations. A network that was not has one Gaussian per class,
        of upright images, and no rotation evidence.
      texture: the descriptor of the local score; None without one.
      encoder: the Keras model that the network is made of, for saving; None if it is not needed.
    """

    def __init__(
        self,
        network,
        config: ScoringConfig,
        num_classes: int,
        knows_rotations: bool = True,
        texture: TextureDescriptor | None = None,
        encoder=None,
    ):
        super().__init__(name="scorer", dtype="float32")
        self.network: Any = network
        self.texture: Any = texture
        self.encoder = encoder
        self.config = config
        self.network_size = network.input_shape[1] if network is not None else 0
        self.image_size = texture.image_size if texture is not None else self.network_size
        self.view_count = 1 if network is None else config.views or (8 if knows_rotations else 2)
        self.knows_rotations = knows_rotations
        self.evidence = config.evidence and knows_rotations and network is not None
        self.num_classes = num_classes
        own = {"standardization": (len(_PARTS), 2), "threshold": ()}
        if network is not None:
            rotations, dimension = views.ROTATIONS if knows_rotations else 1, network.output_shape[-1]
            own["means"] = (rotations, num_classes, dimension)
            own["whitenings"] = (rotations, num_classes, dimension, dimension)
        if texture is not None:
            own["texture_means"] = (1, num_classes, texture.dimension)
            own["texture_whitenings"] = (1, num_classes, texture.dimension, texture.dimension)
        self._names = tuple(own)
        for name, shape in own.items():
            weight = self.add_weight(name=name, shape=shape, initializer="zeros", trainable=False, dtype="float32")
            setattr(self, name, weight)
        self.built = True
        self._functions: dict[str, Any] = {}

    @property
    def rotations(self) -> list[int]:
        """The rotation of every view."""
        return views.view_rotations(self.view_count)

    @property
    def is_scaled(self) -> bool:
        """Whether the score is in units of its spread over normal images, and not a distance."""
        return self.config.score == "both" or (self.config.score == "image" and self.evidence)

    def embed(self, images, count: int):
        """Embed the views of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size; n may be 0.
          count: the number of views: 8, 4, 2 or 1.

        Returns:
          float32 [n, count, D], normalized. Without a network, the texture descriptors float32 [n, 1, D].
        """
        if self.network is None:
            return self.texture(views.prepare(images, self.image_size))[:, None]
        # Through the stored size, so that an image has the same embedding whatever way it comes.
        images = views.prepare(views.prepare(images, self.image_size), self.network_size)
        images, length = views.without_empty_batch(images)
        inputs = views.to_float(views.self_ensemble_views(images, count))
        embeddings = self.network(inputs, training=False)
        embeddings = tf.math.l2_normalize(tf.cast(embeddings, tf.float32), axis=-1)
        return tf.reshape(embeddings, [-1, count, self.network.output_shape[-1]])[:length]

    def distances(self, images):
        """Compute the distances of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size.

        Returns:
          float32 [n, V, C], Mahalanobis distance of every view to the Gaussian of its rotation and every class. Without
          a network, V is 1, and the distance is that of the texture.
        """
        if self.network is None:
            return self._texture_distances(images)[:, None]
        gaussians = ClassConditionalGaussians(self.means, self.whitenings)
        return gaussians.distances(self.embed(images, self.view_count), self.rotations)

    def _texture_distances(self, images):
        """Compute the Mahalanobis distances of the textures of a batch to every class: float32 [n, C]."""
        descriptors = self.texture(views.prepare(images, self.image_size))
        gaussians = ClassConditionalGaussians(self.texture_means, self.texture_whitenings)
        return gaussians.distances(descriptors[:, None], [0])[:, 0]

    def _parts(self, images):
        """Compute the parts of a score for one batch: (distances [n, V, C], classes [n], {name of a part: [n]})."""
        parts = {}
        if self.texture is not None:
            by_class = self._texture_distances(images)
            parts["texture"], classes = tf.reduce_min(by_class, axis=1), tf.argmin(by_class, 1, output_type=tf.int32)
            distances = by_class[:, None]
        if self.evidence:
            gaussians = ClassConditionalGaussians(self.means, self.whitenings)
            to_all = gaussians.distances_to_all(self.embed(images, self.view_count))
            distances = tf.stack([to_all[:, view, turn] for view, turn in enumerate(self.rotations)], axis=1)
            parts["distance"], classes = scoring.self_ensemble(distances, self.config.method)
            parts["evidence"] = scoring.rotation_evidence(to_all, self.rotations, classes)
        elif self.network is not None:
            distances = self.distances(images)
            parts["distance"], classes = scoring.self_ensemble(distances, self.config.method)
        return distances, classes, parts

    def score_batch(self, images):
        """Score one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size.

        Returns:
          A dictionary of `score` float32 [n], higher for more anomalous images; `nearest_class` int32 [n]; `distances`
          float32 [n, V, C], see `distances`.
        """
        distances, classes, parts = self._parts(images)
        if not self.is_scaled:
            score = parts["texture" if self.config.score == "local" else "distance"]
            return {"score": score, "nearest_class": classes, "distances": distances}
        units = dict(zip(_PARTS, tf.unstack(tf.convert_to_tensor(self.standardization)), strict=True))
        scaled = {name: (value - units[name][0]) / units[name][1] for name, value in parts.items()}
        score = _image_score(scaled)
        if self.config.score == "both":
            score = (score - units["image"][0]) / units["image"][1] + scaled["texture"]
        return {"score": score, "nearest_class": classes, "distances": distances}

    def fit_gaussians(self, images, labels, visible: bool = True) -> None:
        """Fit the Gaussians, and those of the texture, to training images, batch by batch.

        Args:
          images: uint8 [n, s, s, 3], array at the stored size.
          labels: int [n], 0 to C - 1.
          visible: whether to show a progress bar on a terminal.

        Raises:
          UsageError: see `ClassConditionalGaussians.fit`.
        """
        settings: Any = {"num_classes": self.num_classes, "shrinkage": self.config.shrinkage}
        if self.texture is not None:
            descriptors = self.texture.fit(images)
            batch = (descriptors, labels, np.zeros(len(images), int))
            fitted = ClassConditionalGaussians.fit_batches([batch], num_rotations=1, **settings)
            self.texture_means.assign(fitted.means)
            self.texture_whitenings.assign(fitted.whitenings)
        if self.network is None:
            return
        batches = self._embedded(images, labels, visible)
        fitted = ClassConditionalGaussians.fit_batches(batches, num_rotations=self.means.shape[0], **settings)
        self.means.assign(fitted.means)
        self.whitenings.assign(fitted.whitenings)

    def _embedded(self, images, labels, visible: bool):
        """Yield (embeddings [m, D], labels [m], rotations [m]) of all views of the images, batch by batch."""
        count = 8 if self.knows_rotations else 2
        rotations = np.array(views.view_rotations(count))
        embed = self._function("embed", lambda batch: self.embed(batch, count))
        size = self._batch_size(count)
        starts = range(0, len(images), size)
        results = parallel.map_in_order(lambda start: embed(tf.constant(images[start : start + size])).numpy(), starts)
        # NumPy's idle threads spin and would keep the cores from the network.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            for start, batch in zip(starts, tracked(results, "Fitting Gaussians", len(starts), visible), strict=True):
                repeated = np.repeat(labels[start : start + size], count)
                yield batch.reshape(-1, batch.shape[-1]), repeated, np.tile(rotations, len(batch))

    def fit_units(self, held_out, images) -> None:
        """Measure center and spread of the parts of a score, if it consists of several.

        Args:
          held_out: uint8 [m, s, s, 3], normal images that were not trained on.
          images: uint8 [n, s, s, 3], training images; they are used if there are too few others.
        """
        if not self.is_scaled:
            return
        normal = held_out if len(held_out) >= _FEW else images[:200]
        compute = self._function("parts", lambda batch: self._parts(batch)[2])
        size = self._batch_size(self.view_count)
        batches = (tf.constant(normal[start : start + size]) for start in range(0, len(normal), size))
        results = [compute(batch) for batch in batches]
        values = {name: np.concatenate([result[name] for result in results]) for name in results[0]}
        units = {name: _center_and_spread(value) for name, value in values.items()}
        scaled = {name: (value - units[name][0]) / units[name][1] for name, value in values.items()}
        units["image"] = _center_and_spread(_image_score(scaled))
        self.standardization.assign([units.get(name, (0.0, 1.0)) for name in _PARTS])

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
            per_image = 0 if self.network is None else count * memory.inference_bytes_per_view(self.network)
            per_image += 0 if self.texture is None else self.texture.bytes_per_image
            size = min(size, int(_SHARE * free / per_image))
        return parallel.per_thread(max(size, 1))

    def state(self) -> dict[str, Any]:
        """Return all weights by name; unlike Keras' weight files, both TensorFlow stacks read them."""
        state = {name: np.asarray(getattr(self, name)) for name in self._names}
        for prefix, part in (("network", self.network), ("texture", self.texture)):
            weights = part.get_weights() if part is not None else []
            state.update({f"{prefix}/{index:04d}": weight for index, weight in enumerate(weights)})
        return state

    def set_state(self, state) -> None:
        """Set all weights from the result of `state`.

        Args:
          state: {name: array}.

        Raises:
          ValueError: names or shapes differ; the message names the first difference.
        """
        if not self.is_scaled:  # detectors of the first development version have no units
            state = {"standardization": np.zeros((len(_PARTS), 2), np.float32), **state}
        for name, mine in self.state().items():
            shape = np.shape(state[name]) if name in state else "nothing"
            if shape != mine.shape:
                raise ValueError(f"{name} should have the shape {mine.shape}. Received: {shape}")
        for name in self._names:
            getattr(self, name).assign(state[name])
        for prefix, part in (("network", self.network), ("texture", self.texture)):
            if part is not None:
                part.set_weights([state[name] for name in sorted(state) if name.startswith(f"{prefix}/")])

    def with_network(self, network) -> SelfEnsembleScorer:
        """Return a copy with the same Gaussians and threshold, and another network of the same shapes."""
        scorer = SelfEnsembleScorer(network, self.config, self.num_classes, self.knows_rotations, self.texture)
        for name in self._names:
            getattr(scorer, name).assign(getattr(self, name))
        return scorer

    def _function(self, name, function):
        """Return the function as a graph, which is traced once."""
        if name not in self._functions:
            self._functions[name] = compat.graph(function, [None, self.image_size, self.image_size, 3])
        return self._functions[name]


def _image_score(scaled):
    """Return the score of the image as a whole from its scaled parts {name: [n]}."""
    return scaled["distance"] + EVIDENCE_WEIGHT * scaled["evidence"] if "evidence" in scaled else scaled["distance"]


def _center_and_spread(values) -> tuple[float, float]:
    """Return mean and standard deviation, which stays finite if all values are equal."""
    values = np.asarray(values, np.float64)
    return values.mean(), max(values.std(), 1e-6 * max(np.abs(values).mean(), 1e-6))


def make_scorer(model, config: Config, num_classes: int, texture: TextureDescriptor | None = None):
    """Create a scorer that shares the weights of a model in training.

    Args:
      model: a `MaskedContrastiveModel`; None for a local score alone.
      config: the configuration.
      num_classes: the number of classes C.
      texture: the descriptor of the local score; None without one.

    Returns:
      A `SelfEnsembleScorer`.
    """
    network, encoder = None, None
    if model is not None:
        encoder = model.encoder
        network = embedding_network(encoder, model.projection_head, config.scoring.embedding)
    knows_rotations = not config.model.freeze_encoder
    return SelfEnsembleScorer(network, config.scoring, num_classes, knows_rotations, texture, encoder)
