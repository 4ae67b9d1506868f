"""The Keras model that trains by masked contrastive learning.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021 (arXiv:2105.08793),
section 3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import tensorflow as tf

from mcl_tf import augmentation, blocked_losses, losses, networks, nt_xent, views
from mcl_tf.config import AugmentationConfig, LossConfig, ModelConfig
from mcl_tf.replicas import Replicas
from mcl_tf.uniformity import uniformity

ANCHOR_LOSSES = {"masked": losses.anchor_losses, "nt_xent": nt_xent.anchor_losses}
METRICS = (
    *("loss", "ccm", "spa", "rotation"),
    *("positive_similarity", "negative_similarity", "without_partner", "uniformity"),
)


@tf.keras.utils.register_keras_serializable("mcl_tf")
class MaskedContrastiveModel(tf.keras.Model):
    """Encoder and projection head with the masked contrastive loss, or NT-Xent, in `train_step`.

    `call` maps images, float [n, s, s, 3] in [0, 1], to projections float32 [n, D]. `fit` takes batches of images,
    uint8 or float [B, s, s, 3] in [0, 255], and labels, int [B]; its metrics are those of the global batch. Build,
    compile and restore the model within the scope of the strategy that trains it. With NT-Xent, `ccm` is that loss, and
    `spa` is 0.

    >>> model = MaskedContrastiveModel(encoder)
    >>> model.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    >>> model.fit(dataset, epochs=10)

    Args:
      encoder: Keras model [n, s, s, 3] -> [n, E].
      projection_head: Keras model [n, E] -> [n, D]; by default two dense layers of 2048 and 128 units.
      loss_config: the loss, factors of the mask and weights of attraction and rotation classifier; `beta` None means
        1 / temperature.
      augmentation_config: the augmentation of the views; without rotations there is no rotation classifier.
      weight_decay: float, L2 penalty on all weights, added to their gradients.
      seed: int; augmentation and partners depend on it and the step only.
      decay_exclusions: bool, whether biases and batch normalization are excluded from the penalty.
      clip_norm: float, maximum global norm of the gradient of the global batch; 0 for no limit.
      ema: float, decay of the moving averages of the weights; 0 for none.
      loss_block_size: int, anchors per block of the loss, see `blocked_losses`; 0 for all at once.
    """

    def __init__(
        self,
        encoder,
        projection_head=None,
        loss_config: LossConfig = LossConfig(),
        augmentation_config: AugmentationConfig = AugmentationConfig(),
        weight_decay: float = 0.0,
        seed: int = 0,
        decay_exclusions: bool = False,
        clip_norm: float = 0.0,
        ema: float = 0.0,
        loss_block_size: int = 0,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})  # the encoder has its own precision
        if projection_head is None:
            projection_head = networks.build_projection_head(ModelConfig(), encoder.output_shape[-1], seed=seed)
        self.encoder = encoder
        self.projection_head = projection_head
        self.rotation_head: Any = None
        if loss_config.rotation_weight and augmentation_config.rotations:
            dtype = tf.as_dtype(encoder.outputs[0].dtype).name
            self.rotation_head = networks.build_rotation_head(encoder.output_shape[-1], dtype=dtype)
        self.loss_config = loss_config
        self.augmentation_config = augmentation_config
        self.weight_decay = weight_decay
        self.seed = seed
        self.decay_exclusions = decay_exclusions
        self.clip_norm = clip_norm
        self.ema = ema
        self.loss_block_size = loss_block_size
        self.trackers = {name: tf.keras.metrics.Mean(name=name, dtype="float32") for name in METRICS}
        self.averages = MovingAverages(encoder.weights + projection_head.weights, ema) if ema else None
        self.built = True  # its parts are; a step does not call it as a whole, which would tell Keras

    @property
    def metrics(self):
        """Return the running means that `fit` shows and resets at every epoch."""
        return list(self.trackers.values())

    def call(self, images, training=False):
        """Map images float [n, s, s, 3] in [0, 1] to projections float32 [n, D], not normalized."""
        return self.projection_head(self.encoder(images, training=training), training=training)

    def train_step(self, data):
        """Train on one batch (images, labels) and return the running means of the metrics by name."""
        images, labels, _ = tf.keras.utils.unpack_x_y_sample_weight(data)
        for name, value in self.optimize(images, labels).items():
            self.trackers[name].update_state(value)
        return {name: tracker.result() for name, tracker in self.trackers.items()}

    def optimize(self, images, labels):
        """Take one optimizer step.

        Args:
          images: uint8 or float [B, s, s, 3] in [0, 255].
          labels: int [B].

        Returns:
          {name of a metric: float32 scalar}, the metrics of the global batch.
        """
        replicas = Replicas.current()
        step = self.optimizer.iterations
        rotations, labels = views.instances(labels, views.ROTATIONS if self.augmentation_config.rotations else 1)
        inputs = self.augment(views.to_float(images), rotations, step, replicas)
        with tf.GradientTape() as tape:
            embeddings = self.encoder(inputs, training=True)
            projections = self.projection_head(embeddings, training=True)
            loss, metrics = self.contrastive_loss(projections, labels, rotations, step, replicas)
            if self.rotation_head is not None:
                rotation_loss = self.rotation_loss(embeddings, rotations, replicas)
                loss += self.loss_config.rotation_weight * rotation_loss
                metrics["rotation"] = replicas.all_sum(rotation_loss)
                # Not with +: TensorFlow adds three scalars in an order that depends on the names of the operations.
                weighted = self.loss_config.rotation_weight * metrics["rotation"]
                metrics["loss"] = tf.reduce_sum(tf.stack([metrics["loss"], weighted]))
            loss = self.scaled(loss)
        weights = self.trainable_variables
        gradients = self.clip(tape.gradient(loss, weights), replicas)
        decay = self.scaled(self.weight_decay / replicas.count)  # the optimizer sums gradients over replicas
        decayed = [self.weight_decay > 0.0 and (len(w.shape) > 1 or not self.decay_exclusions) for w in weights]
        gradients = [
            g + decay * tf.cast(w, g.dtype) if add else g for g, w, add in zip(gradients, weights, decayed, strict=True)
        ]
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        if self.averages is not None:
            self.averages.update(self.optimizer.iterations)
        return metrics

    def scaled(self, value):
        """Scale a value for a loss-scaling optimizer, which divides gradients again; others leave it unchanged."""
        return getattr(self.optimizer, "scale_loss", lambda plain: plain)(value)

    def clip(self, gradients, replicas):
        """Scale gradients down so that the norm of their sum over replicas is at most `clip_norm`."""
        if not self.clip_norm:
            return gradients
        gradients = [replicas.all_sum(g) for g in gradients]
        norm = tf.linalg.global_norm(gradients)
        limit = self.scaled(tf.constant(self.clip_norm, norm.dtype))
        # The gradients are now equal on all replicas, and the optimizer sums them over replicas again.
        share = tf.minimum(limit / tf.maximum(norm, 1e-30), 1.0) / replicas.count
        return [g * share for g in gradients]

    def augment(self, images, rotations, step, replicas):
        """Return two views of every instance.

        Args:
          images: float [B, s, s, 3] in [0, 1].
          rotations: int [n].
          step: int scalar, seeds the augmentation.
          replicas: the replicas that share the global batch.

        Returns:
          float32 [2 n, s, s, 3], the first views of all instances, then the second views.
        """
        size = tf.size(rotations)
        return augmentation.augment(
            images,
            rotations,
            seed=self.seed,
            step=step,
            indices=replicas.index * size + tf.range(size),
            total=replicas.count * size,
            config=self.augmentation_config,
        )

    def contrastive_loss(self, projections, labels, rotations, step, replicas):
        """Compute CCM + spa_weight * SPA, or NT-Xent, of this replica's anchors among the projections of all replicas.

        Args:
          projections: float [2 n, D], first views, then second views.
          labels: int [n].
          rotations: int [n].
          step: int scalar, seeds the partners.
          replicas: the replicas that share the global batch.

        Returns:
          (loss, metrics). The sum of `loss` over replicas is the loss of the global batch, the mean over all its
          anchors; the same holds for its gradients. `metrics` are those of the global batch, equal on every replica.
        """
        config = self.loss_config
        size = tf.shape(labels)[0]
        pairs = replicas.all_gather(tf.reshape(projections, [2, size, projections.shape[-1]]), axis=1)
        labels = replicas.all_gather(labels, axis=0)
        rotations = replicas.all_gather(rotations, axis=0)
        seed = tf.stack([tf.cast(self.seed, tf.int64) + 1, tf.cast(step, tf.int64)])
        partners = losses.sample_partners(labels, rotations, seed)
        per_anchor = ANCHOR_LOSSES[config.loss]
        if self.loss_block_size:
            blocks = {"block_size": self.loss_block_size, "per_anchor": per_anchor}
            per_anchor = functools.partial(blocked_losses.anchor_losses, **blocks)
        ccm, spa = losses.contrastive_losses(
            pairs,
            labels,
            rotations,
            partners,
            alpha=config.alpha,
            beta=1.0 / config.temperature if config.beta is None else config.beta,
            temperature=config.temperature,
            anchors=None if replicas.count == 1 else replicas.index * size + tf.range(size),
            per_anchor=per_anchor,
        )
        loss = ccm + config.spa_weight * spa
        units = losses.normalize(pairs)
        positive, negative = losses.mean_similarities(units)
        without_partner = tf.reduce_mean(tf.cast(partners < 0, loss.dtype))
        loss_values = tf.unstack(replicas.all_sum(tf.stack([loss, ccm, spa])))
        values = (*loss_values, tf.zeros_like(loss), positive, negative, without_partner, uniformity(units))
        return loss, dict(zip(METRICS, values, strict=True))

    def rotation_loss(self, embeddings, rotations, replicas):
        """Compute the cross-entropy of the rotation classifier.

        Args:
          embeddings: float [2 n, E], first views, then second views.
          rotations: int [n].
          replicas: the replicas that share the global batch.

        Returns:
          float scalar. Its sum over replicas is the mean over the global batch.
        """
        logits = self.rotation_head(embeddings, training=True)
        losses_ = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.tile(rotations, [2]), logits)
        return tf.reduce_mean(losses_) / replicas.count

    def get_config(self):
        """Return the constructor arguments as plain values, for `save` and `clone_model`."""
        serialize = tf.keras.utils.serialize_keras_object
        return {
            **super().get_config(),
            "encoder": serialize(self.encoder),
            "projection_head": serialize(self.projection_head),
            "loss_config": dataclasses.asdict(self.loss_config),
            "augmentation_config": dataclasses.asdict(self.augmentation_config),
            **{name: getattr(self, name) for name in _PLAIN_ARGUMENTS},
        }

    @classmethod
    def from_config(cls, config):
        """Create a model from the result of `get_config`."""
        config = dict(config)
        for name in ("encoder", "projection_head"):
            config[name] = tf.keras.utils.deserialize_keras_object(config[name])
        config["loss_config"] = LossConfig(**config["loss_config"])
        config["augmentation_config"] = AugmentationConfig(**config["augmentation_config"])
        return cls(**config)

    def save_own_variables(self, store):
        """Add the moving averages to a file of weights."""
        super().save_own_variables(store)
        for index, value in enumerate(self.averages.values if self.averages else ()):
            store[f"average_{index}"] = value.numpy()

    def load_own_variables(self, store):
        """Read the moving averages from a file of weights."""
        for index, value in enumerate(self.averages.values if self.averages else ()):
            value.assign(store[f"average_{index}"])


_PLAIN_ARGUMENTS = ("weight_decay", "seed", "decay_exclusions", "clip_norm", "ema", "loss_block_size")


class MovingAverages:
    """Exponential moving averages of weights, including the statistics of batch normalization.

    The first steps count more, as in `tf.train.ExponentialMovingAverage` with `num_updates`.

    Args:
      weights: the variables.
      decay: float, the share of the average that a step keeps.
    """

    def __init__(self, weights, decay: float):
        self.weights, self.decay = list(weights), decay
        first = tf.VariableAggregation.ONLY_FIRST_REPLICA  # all replicas are equal
        self.values = [
            tf.Variable(tf.convert_to_tensor(w), trainable=False, aggregation=first, name="average")
            for w in self.weights
        ]

    def update(self, step):
        """Update the averages with the present weights.

        Args:
          step: int scalar, the number of updates including this one.
        """
        step = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, step / (9.0 + step))
        for value, weight in zip(self.values, self.weights, strict=True):
            weight = tf.convert_to_tensor(weight)
            value.assign(weight + tf.cast(decay, weight.dtype) * (value - weight))

    @contextlib.contextmanager
    def swapped_in(self):
        """Context manager that replaces the weights by their averages and restores them at the end."""
        before = [tf.identity(tf.convert_to_tensor(weight)) for weight in self.weights]
        self.copy_to_weights()
        try:
            yield
        finally:
            for weight, value in zip(self.weights, before, strict=True):
                weight.assign(value)

    def copy_to_weights(self):
        """Replace the weights by their averages."""
        for weight, value in zip(self.weights, self.values, strict=True):
            weight.assign(tf.convert_to_tensor(value))
