"""The model that trains itself by masked contrastive learning.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021
(arXiv:2105.08793), section 3.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import tensorflow as tf

from mcl_tf import augmentation, blocked_losses, losses, views
from mcl_tf.config import AugmentationConfig, LossConfig
from mcl_tf.replicas import Replicas


class MaskedContrastiveModel(tf.keras.Model):
    """Encoder and projection head with the masked contrastive loss in `train_step`.

    Build, compile and restore it inside the scope of the strategy that trains it. `call` gives the projections
    of pictures, float [n, s, s, 3] in [0, 1] -> [n, D].

    Args:
      encoder: model [n, s, s, 3] -> [n, E].
      projection_head: model [n, E] -> [n, D].
      loss_config: factors of the mask and weight of the attraction; `beta` None means 1 / temperature.
      augmentation_config: the augmentation of the views.
      weight_decay: L2 penalty on all weights, added to their gradients.
      seed: augmentation and partners follow from it and the step alone.
      decay_exclusions: leave biases and batch normalisation out of the penalty.
      clip_norm: largest global norm of the loss's gradient, all replicas joined; 0 for no limit.
      ema: decay of the moving averages of the weights; 0 for none.
      loss_block_size: anchors a block of the loss, see `blocked_losses`; 0 for all at once.
    """

    def __init__(
        self,
        encoder,
        projection_head,
        loss_config: LossConfig = LossConfig(),
        augmentation_config: AugmentationConfig = AugmentationConfig(),
        weight_decay: float = 0.0,
        seed: int = 0,
        decay_exclusions: bool = False,
        clip_norm: float = 0.0,
        ema: float = 0.0,
        loss_block_size: int = 0,
    ):
        super().__init__()
        self.encoder = encoder
        self.projection_head = projection_head
        self.loss_config = loss_config
        self.augmentation_config = augmentation_config
        self.weight_decay = weight_decay
        self.seed = seed
        self.decay_exclusions = decay_exclusions
        self.clip_norm = clip_norm
        self.ema = ema
        self.loss_block_size = loss_block_size
        names = ("loss", "ccm", "spa", "positive_similarity", "negative_similarity", "without_partner")
        self.trackers = {name: tf.keras.metrics.Mean(name=name) for name in names}
        self.averages = MovingAverages(encoder.weights + projection_head.weights, ema) if ema else None

    @property
    def metrics(self):
        return list(self.trackers.values())

    def call(self, images, training=False):
        return self.projection_head(self.encoder(images, training=training), training=training)

    def train_step(self, data):
        """`optimize` with the running means that Keras' `fit` shows."""
        for name, value in self.optimize(data).items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def optimize(self, data):
        """One step on uint8 or float pictures [B, s, s, 3] (0 to 255) and int labels [B]; the batch's figures."""
        images, labels, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        replicas = Replicas.current()
        step = self.optimizer.iterations
        rotations, labels = views.instances(labels)
        inputs = self.augment(views.to_float(images), rotations, step, replicas)
        with tf.GradientTape() as tape:
            projections = self(inputs, training=True)
            loss, parts = self.contrastive_loss(projections, labels, rotations, step, replicas)
            loss = self.scaled(loss)
        weights = self.trainable_variables
        gradients = self.clip(tape.gradient(loss, weights), replicas)
        decay = self.scaled(self.weight_decay / replicas.count)  # the optimiser sums gradients over replicas
        decayed = [self.weight_decay > 0.0 and (len(w.shape) > 1 or not self.decay_exclusions) for w in weights]
        gradients = [
            g + decay * tf.cast(w, g.dtype) if add else g
            for g, w, add in zip(gradients, weights, decayed, strict=True)
        ]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if self.averages is not None:
            self.averages.update(self.optimizer.iterations)
        return parts

    def scaled(self, value):
        """The value as a loss-scaling optimiser, which divides gradients again, wants it; others leave it."""
        return getattr(self.optimizer, "scale_loss", lambda plain: plain)(value)

    def clip(self, gradients, replicas):
        """Gradients shortened so that the norm of their sum over replicas is at most `clip_norm`."""
        if not self.clip_norm:
            return gradients
        gradients = [replicas.all_sum(g) for g in gradients]
        norm, limit = tf.linalg.global_norm(gradients), self.scaled(tf.constant(self.clip_norm))
        # What is the same on all replicas will be summed over them again.
        share = tf.minimum(1.0, limit / tf.maximum(norm, 1e-30)) / replicas.count
        return [g * share for g in gradients]

    def augment(self, images, rotations, step, replicas):
        """The two views of every instance: pictures float [B, s, s, 3], rotations [n] -> [2 n, s, s, 3]."""
        size = tf.size(rotations)
        return augmentation.augment(
            images,
            rotations,
            seed=self.seed,
            step=step,
            places=replicas.index * size + tf.range(size),
            total=replicas.count * size,
            config=self.augmentation_config,
        )

    def contrastive_loss(self, projections, labels, rotations, step, replicas):
        """CCM + spa_weight * SPA of this replica's anchors against the projections of all replicas.

        Args:
          projections: float [2 n, D], first views, then second.
          labels, rotations: int [n].
          step: integer, seeds the partners.
          replicas: the replicas that share the global batch.

        Returns:
          (loss, parts). The sum of `loss` over replicas is the loss of the global batch (means over all its
          anchors), and so is the sum of its gradients. `parts` holds the figures to watch, those of the global
          batch on every replica.
        """
        config = self.loss_config
        size = tf.shape(labels)[0]
        z = losses.normalize(tf.reshape(projections, [2, size, projections.shape[-1]]))
        z = replicas.all_gather(z, axis=1)
        labels = replicas.all_gather(labels, axis=0)
        rotations = replicas.all_gather(rotations, axis=0)
        seed = tf.stack([tf.cast(self.seed, tf.int64) + 1, tf.cast(step, tf.int64)])
        partners = losses.sample_partners(labels, rotations, seed)
        anchor_losses: Callable = losses.anchor_losses
        if self.loss_block_size:
            anchor_losses = functools.partial(blocked_losses.anchor_losses, block_size=self.loss_block_size)
        ccm, spa = anchor_losses(
            z,
            labels,
            rotations,
            partners,
            alpha=config.alpha,
            beta=1.0 / config.temperature if config.beta is None else config.beta,
            temperature=config.temperature,
            anchors=None if replicas.count == 1 else replicas.index * size + tf.range(size),
        )
        ccm = tf.reduce_sum(ccm) / tf.cast(2 * tf.size(labels), tf.float32)
        spa = tf.math.divide_no_nan(tf.reduce_sum(spa), losses.count_anchors(partners))
        loss = ccm + config.spa_weight * spa
        positive, negative = losses.mean_similarities(z)
        joined = tf.unstack(replicas.all_sum(tf.stack([loss, ccm, spa])))
        parts = dict(zip(("loss", "ccm", "spa"), joined, strict=True))
        parts["positive_similarity"], parts["negative_similarity"] = positive, negative
        parts["without_partner"] = tf.reduce_mean(tf.cast(partners < 0, tf.float32))
        return loss, parts


class MovingAverages:
    """Exponential moving averages of weights, batch normalisation's statistics among them.

    The first steps count more, as in `tf.train.ExponentialMovingAverage` with `num_updates`.

    Args:
      weights: the variables.
      decay: share of the average that a step keeps.
    """

    def __init__(self, weights, decay: float):
        self.weights, self.decay = list(weights), decay
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA  # equal on all
        self.values = [
            tf.Variable(tf.convert_to_tensor(w), trainable=False, aggregation=first, name="average")
            for w in self.weights
        ]

    def update(self, step):
        """Takes the weights in; `step` is the number of updates, this one included."""
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, step / (9.0 + step))
        for value, weight in zip(self.values, self.weights, strict=True):
            value.assign(decay * value + (1.0 - decay) * tf.convert_to_tensor(weight))

    @contextlib.contextmanager
    def in_place(self):
        """Within, the weights are their averages."""
        before = [tf.identity(tf.convert_to_tensor(weight)) for weight in self.weights]
        self.put()
        try:
            yield
        finally:
            for weight, value in zip(self.weights, before, strict=True):
                weight.assign(value)

    def put(self):
        """Makes the averages the weights."""
        for weight, value in zip(self.weights, self.values, strict=True):
            weight.assign(tf.convert_to_tensor(value))
