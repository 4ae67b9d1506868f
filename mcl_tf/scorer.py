"""The scorer: network, Gaussians, texture and threshold in one Keras model.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf import scoring, units, views
from mcl_tf.config import Config, DataConfig, ScoringConfig
from mcl_tf.data import arrays
from mcl_tf.embeddings import embedding_network
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.patches import PatchGaussians
from mcl_tf.texture import TextureDescriptor
from mcl_tf.utils import compat, memory, parallel
from mcl_tf.utils.console import tracked

_SHARE = 0.5  # of the free memory that a batch may take


class SelfEnsembleScorer(tf.keras.Model):
    """Embeds the views of an image, measures their distances to the Gaussians and combines them into a score.

    The score of the image as a whole is the self-ensemble of its distances. With `evidence`, several classes are
    compared by likelihood, see `scoring.likelihood_distances`; with one class, half of the rotation evidence is added,
    each in units of its spread over normal images. The local score is the distance of the texture descriptor; a network
    that gives the features of places adds their largest distance, in units of its spread. Network, Gaussians, units and
    threshold are weights of the model, so that they are saved, loaded and exported together.

    `embed`, `distances` and `score_batch` work on one batch, also in a graph; `evaluate_images` and `scores` loop over
    any number of images. `mcl_tf.fitting` fits it to normal images.

    Args:
      network: Keras model float [n, s, s, 3] in [0, 1] -> [n, D], or a list of this and of the features of places
        [n, h, w, d], see `embedding_network`; None for the score of the texture alone.
      config: views, method, evidence, score, shrinkage and batch size.
      num_classes: the number of classes C.
      knows_rotations: whether there is a Gaussian for every rotation. A frozen network has one Gaussian per class, of
        upright images, and no rotation evidence.
      texture: the descriptor of the local score; None without one.
      encoder: the Keras model that the network is made of, for saving; None if it is not needed.
      resize: what becomes of images that are not square, see `views.prepare`.
    """

    # How images are brought to a size. An export sets another function of the same result.
    to_size: Any = staticmethod(views.prepare)

    def __init__(
        self,
        network,
        config: ScoringConfig,
        num_classes: int,
        knows_rotations: bool = True,
        texture: TextureDescriptor | None = None,
        encoder=None,
        resize: str = DataConfig.resize,
    ):
        super().__init__(name="scorer", dtype="float32")
        self.network: Any = network
        self.texture: Any = texture
        self.encoder = encoder
        self.resize = resize
        self.config = config
        self.network_size = network.input_shape[1] if network is not None else 0
        self.image_size = texture.image_size if texture is not None else self.network_size
        self.view_count = 1 if network is None else config.views or (8 if knows_rotations else 2)
        self.knows_rotations = knows_rotations
        self.by_likelihood = config.evidence and num_classes > 1
        self.evidence = config.evidence and num_classes == 1 and knows_rotations and network is not None
        self.num_classes = num_classes
        self.patches: Any = None
        if network is not None and len(network.outputs) > 1:
            self.patches = PatchGaussians(*network.outputs[1].shape[2:])
        self.part_names = units.names(self.patches is not None)
        own = {"standardization": (len(self.part_names), 2), "threshold": ()}
        if network is not None:
            rotations, dimension = views.ROTATIONS if knows_rotations else 1, network.outputs[0].shape[-1]
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
    def gaussians(self) -> ClassConditionalGaussians:
        """The Gaussians of the embeddings; there must be a network."""
        return ClassConditionalGaussians(self.means, self.whitenings)

    @property
    def rotations(self) -> list[int]:
        """The rotation of every view."""
        return views.view_rotations(self.view_count)

    @property
    def is_scaled(self) -> bool:
        """Whether the score is in units of its spread over normal images, and not a distance."""
        several = self.evidence if self.config.score == "image" else self.patches is not None
        return self.config.score == "both" or several

    def prepare(self, images):
        """Bring images uint8 [n, h, w, c] to the stored size: uint8 [n, image_size, image_size, 3]."""
        return self.to_size(images, self.image_size, self.resize)

    def embed(self, images, count: int):
        """Embed the views of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size; n may be 0.
          count: the number of views: 8, 4, 2 or 1.

        Returns:
          float32 [n, count, D], normalized. Without a network, the texture descriptors float32 [n, 1, D].
        """
        return self.embed_views(images, count)[0]

    def embed_views(self, images, count: int):
        """Embed the views of one batch, see `embed`.

        Returns:
          The embeddings, and the features of the places float32 [n, count, h, w, d] or None.
        """
        if self.network is None:
            return self.texture(self.prepare(images))[:, None], None
        # Through the stored size, so that an image has the same embedding whatever way it comes.
        images = self.to_size(self.prepare(images), self.network_size)
        images, length = views.without_empty_batch(images)
        # Floats are turned and not bytes, about whose transposition oneDNN complains on processors without AVX-512.
        embeddings, features = self.embed_floats(views.to_float(images), count)
        return embeddings[:length], None if features is None else features[:length]

    def embed_floats(self, images, count: int):
        """Embed the views of images float32 [n, s, s, 3] in [0, 1], n at least 1, see `embed_views`.

        The embedding of a view is the mean over all areas that it shows, normalized again.
        """
        areas = self.config.view_areas
        shown = tf.concat([views.self_ensemble_views(views.central(images, area), count) for area in areas], 0)
        outputs = tf.nest.flatten(self.network(shown, training=False))
        outputs = [tf.reshape(output, [len(areas), -1, count, *output.shape[1:]]) for output in outputs]
        of_areas = tf.math.l2_normalize(tf.cast(outputs[0], tf.float32), axis=-1)
        one = len(areas) == 1
        embeddings = of_areas[0] if one else tf.math.l2_normalize(tf.reduce_sum(of_areas, axis=0), axis=-1)
        return embeddings, None if self.patches is None else outputs[1][areas.index(1.0)]

    def distances(self, images):
        """Compute the distances of one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size.

        Returns:
          float32 [n, V, C], Mahalanobis distance of every view to the Gaussian of its rotation and every class. Without
          a network, V is 1, and the distance is that of the texture.
        """
        if self.network is None:
            return self._texture_distances(images)
        return self.gaussians.distances(self.embed(images, self.view_count), self.rotations)

    def self_ensemble(self, distances):
        """Combine distances float32 [n, V, C] of embeddings into scores and classes, see `scoring.self_ensemble`."""
        return self._ensemble(distances, self.gaussians, self.rotations, self.config.method)

    def _ensemble(self, distances, gaussians, rotations, method):
        if self.by_likelihood:
            of_views = tf.gather(gaussians.log_determinants(), rotations)
            distances = scoring.likelihood_distances(distances, of_views)
        return scoring.self_ensemble(distances, method)

    @property
    def _texture_gaussians(self) -> ClassConditionalGaussians:
        return ClassConditionalGaussians(self.texture_means, self.texture_whitenings)

    def _texture_distances(self, images):
        """Compute the Mahalanobis distances of the textures of a batch to every class: float32 [n, 1, C]."""
        return self._texture_gaussians.distances(self.texture(self.prepare(images))[:, None], [0])

    def upright(self, features, count: int):
        """Return the features of the views that are not rotated, [n, v, h, w, d], and which of them are flipped."""
        indices = [view for view, rotation in enumerate(views.view_rotations(count)) if rotation == 0]
        return tf.gather(features, indices, axis=1), [views.view_flips(count)[view] for view in indices]

    def place_distances(self, features):
        """Compute the map of distances float32 [n, h, w] from the features of all views."""
        features, flips = self.upright(features, self.view_count)
        return self.patches(features, flips=flips)

    def measure_parts(self, images):
        """Compute the parts of a score for one batch.

        Returns:
          Distances float32 [n, V, C], nearest classes int32 [n], and {name: float32 [n]}, see `units.combine`; with
          features of places, `places` float32 [n, h, w] is their map.
        """
        parts = {}
        if self.texture is not None:
            distances = self._texture_distances(images)
            parts["texture"], classes = self._ensemble(distances, self._texture_gaussians, [0], "min")
        if self.network is None:
            return distances, classes, parts
        embeddings, features = self.embed_views(images, self.view_count)
        if self.evidence:
            to_all = self.gaussians.distances_to_all(embeddings)
            distances = tf.stack([to_all[:, view, turn] for view, turn in enumerate(self.rotations)], axis=1)
        else:
            distances = self.gaussians.distances(embeddings, self.rotations)
        parts["distance"], classes = self.self_ensemble(distances)
        if self.evidence:
            parts["evidence"] = scoring.rotation_evidence(to_all, self.rotations, classes)
        if features is not None:
            parts["places"] = self.place_distances(features)
            parts["patches"] = self.patches.score(parts["places"])
        return distances, classes, parts

    def score_batch(self, images):
        """Score one batch of images.

        Args:
          images: uint8 [n, h, w, c], of any size.

        Returns:
          A dictionary of `score` float32 [n], higher for more anomalous images; `nearest_class` int32 [n]; `distances`
          float32 [n, V, C], see `distances`.
        """
        distances, classes, parts = self.measure_parts(images)
        if self.is_scaled:
            parts.pop("places", None)
            measured = dict(zip(self.part_names, tf.unstack(tf.convert_to_tensor(self.standardization)), strict=True))
            score = units.combine(parts, measured, self.config.score)
        else:
            score = parts["texture" if self.config.score == "local" else "distance"]
        return {"score": score, "nearest_class": classes, "distances": distances}

    def evaluate_images(self, images, visible: bool = True) -> dict[str, np.ndarray]:
        """Score any number of images, batch by batch.

        Args:
          images: see `arrays.as_source`.
          visible: whether to show a progress bar on a terminal.

        Returns:
          {name: array}, see `score_batch`.
        """
        return self.map_images("score_batch", self.score_batch, images, "Scoring", visible)

    def map_images(self, name: str, function, images, description: str, visible: bool = True) -> dict[str, np.ndarray]:
        """Apply a function of one batch to any number of images.

        Args:
          name: a name for the function, see `traced`.
          function: from uint8 [n, s, s, 3] at the stored size to {name: tensor [n, ...]}.
          images: see `arrays.as_source`.
          description: what is done, for the progress bar.
          visible: whether to show it on a terminal.

        Returns:
          {name: array}.
        """
        compute = self.traced(name, function)
        batches = arrays.scoring_batches(images, self.images_per_batch(self.view_count), self.image_size, self.resize)

        def apply(batch):
            return {name: value.numpy() for name, value in compute(batch).items()}

        parts = list(tracked(parallel.map_in_order(apply, batches), description, visible=visible))
        if not parts:
            parts = [apply(tf.zeros([0, self.image_size, self.image_size, 3], tf.uint8))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def scores(self, images, visible: bool = True) -> np.ndarray:
        """Return the anomaly scores float32 [n] of any number of images, see `evaluate_images`."""
        return self.evaluate_images(images, visible)["score"]

    def images_per_batch(self, count: int) -> int:
        """Return the number of images per thread with `count` views each; fewer than configured if memory is short."""
        free = memory.available()
        size = self.config.scoring_batch_size
        if free is not None and not tf.config.list_logical_devices("GPU"):
            shown = count * len(self.config.view_areas)
            per_image = 0 if self.network is None else shown * memory.inference_bytes_per_view(self.network)
            per_image += sum(part.bytes_per_image for part in (self.texture, self.patches) if part is not None)
            size = min(size, int(_SHARE * free / per_image))
        return parallel.per_thread(max(size, 1))

    def state(self) -> dict[str, Any]:
        """Return all weights by name; unlike Keras' weight files, both TensorFlow stacks read them."""
        state = {name: np.asarray(getattr(self, name)) for name in self._names}
        for prefix, part in self._weighted.items():
            state.update({f"{prefix}/{index:04d}": weight for index, weight in enumerate(part.get_weights())})
        return state

    @property
    def _weighted(self) -> dict[str, Any]:
        """The parts that have weights of their own."""
        parts = {"network": self.network, "texture": self.texture, "patches": self.patches}
        return {name: part for name, part in parts.items() if part is not None}

    def set_state(self, state) -> None:
        """Set all weights from the result of `state`.

        Args:
          state: {name: array}.

        Raises:
          ValueError: names or shapes differ; the message names the first difference.
        """
        if not self.is_scaled:  # detectors of the first development version have no units
            state = {"standardization": np.zeros((len(self.part_names), 2), np.float32), **state}
        for name, mine in self.state().items():
            shape = np.shape(state[name]) if name in state else "nothing"
            if shape != mine.shape:
                raise ValueError(f"{name} should have the shape {mine.shape}. Received: {shape}")
        for name in self._names:
            getattr(self, name).assign(state[name])
        for prefix, part in self._weighted.items():
            part.set_weights([state[name] for name in sorted(state) if name.startswith(f"{prefix}/")])

    def with_network(self, network) -> SelfEnsembleScorer:
        """Return a copy with the same Gaussians and threshold, and another network of the same shapes."""
        scorer = SelfEnsembleScorer(
            network, self.config, self.num_classes, self.knows_rotations, self.texture, resize=self.resize
        )
        for name in self._names:
            getattr(scorer, name).assign(getattr(self, name))
        scorer.patches = self.patches
        return scorer

    def traced(self, name, function):
        """Return a function of images as a graph, which is traced once per name."""
        if name not in self._functions:
            self._functions[name] = compat.graph(function, [None, self.image_size, self.image_size, 3])
        return self._functions[name]


def make_scorer(
    model, config: Config, num_classes: int, texture: TextureDescriptor | None = None, with_patches: bool = False
):
    """Create a scorer that shares the weights of a model in training.

    Args:
      model: a `MaskedContrastiveModel`; None for a local score alone.
      config: the configuration.
      num_classes: the number of classes C.
      texture: the descriptor of the local score; None without one.
      with_patches: whether the features of the encoder's places are part of the local score, if it has any.

    Returns:
      A `SelfEnsembleScorer`.
    """
    network, encoder = None, None
    if model is not None:
        encoder = model.encoder
        network = embedding_network(encoder, model.projection_head, config.scoring.embedding, with_patches)
    knows_rotations = not config.model.freeze_encoder
    # A network that was not trained on rotations need not tell them apart.
    evidence = config.scoring.evidence and (config.augmentation.rotations or num_classes > 1)
    scoring_config = config.replace(evidence=evidence).scoring
    return SelfEnsembleScorer(
        network, scoring_config, num_classes, knows_rotations, texture, encoder, config.data.resize
    )
