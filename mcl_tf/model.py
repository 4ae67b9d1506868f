"""The model that trains itself by masked contrastive learning.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021
(arXiv:2105.08793), section 3.
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf import augmentation, losses, views
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
    """

    def __init__(
        self,
        encoder,
        projection_head,
        loss_config: LossConfig = LossConfig(),
        augmentation_config: AugmentationConfig = AugmentationConfig(),
        weight_decay: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.encoder = encoder
        self.projection_head = projection_head
        self.loss_config = loss_config
        self.augmentation_config = augmentation_config
        self.weight_decay = weight_decay
        self.seed = seed
        names = ("loss", "ccm", "spa", "positive_similarity", "negative_similarity")
        self.trackers = {name: tf.keras.metrics.Mean(name=name) for name in names}

    @property
    def metrics(self):
        return list(self.trackers.values())

    def call(self, images, training=False):
        return self.projection_head(self.encoder(images, training=training), training=training)

    def train_step(self, data):
        """One step on uint8 or float pictures [B, s, s, 3] (0 to 255) and int labels [B]."""
        images, labels, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        replicas = Replicas.current()
        step = self.optimizer.iterations
        instances, rotations, labels = make_instances(images, labels)
        inputs = self.augment(instances, rotations, step, replicas)
        with tf.GradientTape() as tape:
            projections = self(inputs, training=True)
            loss, parts = self.contrastive_loss(projections, labels, rotations, step, replicas)
        weights = self.trainable_variables
        gradients = tape.gradient(loss, weights)
        decay = self.weight_decay / replicas.count  # the optimiser sums gradients over replicas
        gradients = [g + decay * tf.cast(w, g.dtype) for g, w in zip(gradients, weights, strict=True)]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        for name, value in parts.items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def augment(self, instances, rotations, step, replicas):
        """The two views of every instance, [n, s, s, 3] -> [2 n, s, s, 3]."""
        size = tf.shape(instances)[0]
        return augmentation.augment(
            instances,
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
          anchors), and so is the sum of its gradients. `parts` holds the figures to watch, whose mean over
          replicas is the global batch's.
        """
        config = self.loss_config
        size = tf.shape(labels)[0]
        z = losses.normalize(tf.reshape(projections, [2, size, projections.shape[-1]]))
        z = replicas.all_gather(z, axis=1)
        labels = replicas.all_gather(labels, axis=0)
        rotations = replicas.all_gather(rotations, axis=0)
        seed = tf.stack([tf.cast(self.seed, tf.int64) + 1, tf.cast(step, tf.int64)])
        partners = losses.sample_partners(labels, rotations, seed)
        ccm, spa = losses.anchor_losses(
            z,
            labels,
            rotations,
            partners,
            alpha=config.alpha,
            beta=1.0 / config.temperature if config.beta is None else config.beta,
            temperature=config.temperature,
            anchors=replicas.index * size + tf.range(size),
        )
        ccm = tf.reduce_sum(ccm) / tf.cast(2 * tf.size(labels), tf.float32)
        spa = tf.math.divide_no_nan(tf.reduce_sum(spa), losses.count_anchors(partners))
        loss = ccm + config.spa_weight * spa
        positive, negative = losses.mean_similarities(z)
        parts = {"loss": loss, "ccm": ccm, "spa": spa}
        parts = {name: value * replicas.count for name, value in parts.items()}
        return loss, {**parts, "positive_similarity": positive, "negative_similarity": negative}


def make_instances(images, labels):
    """Pictures [B, s, s, 3] of 0 to 255 and labels [B] -> instances [4 B, ...] in [0, 1], rotations, labels."""
    instances = views.four_rotations(views.to_float(images))
    rotations = tf.tile(tf.range(views.ROTATIONS), [tf.shape(labels)[0]])
    return instances, rotations, tf.repeat(tf.cast(labels, tf.int32), views.ROTATIONS)
