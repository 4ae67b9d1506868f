"""Training: strategy, optimiser, schedule, checkpoints, resume.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 4.1; SGDR's cosine without restarts
(arXiv:1608.03983).
"""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from mcl_tf import networks, optimizers, stacks
from mcl_tf.config import Config
from mcl_tf.data.pipeline import training_batches
from mcl_tf.errors import UsageError
from mcl_tf.model import MaskedContrastiveModel
from mcl_tf.monitoring import FiniteLoss, say, step_of
from mcl_tf.views import ROTATIONS

REFERENCE_INSTANCES = 256  # the learning rate of the configuration is for so many instances a step


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The distribution strategy: `auto` takes every GPU, one device where there is one or none.

    For one device TensorFlow's default strategy: `OneDeviceStrategy` made a training step of the small encoder
    on two CPU cores half as slow again.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        # On a machine without a GPU, the logical CPUs are the replicas.
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def build_model(config: Config, image_size: int) -> MaskedContrastiveModel:
    """An untrained model; its initial weights follow from the seed."""
    tf.keras.utils.set_random_seed(config.data.seed)
    penalised = optimizers.decays_gradients(config.training.optimizer)
    encoder = networks.build_encoder(config.model, image_size)
    head = networks.build_projection_head(config.model, encoder.output_shape[-1])
    return MaskedContrastiveModel(
        encoder,
        head,
        loss_config=resolve_loss(config),
        augmentation_config=config.augmentation,
        weight_decay=config.training.weight_decay if penalised else 0.0,
        seed=config.data.seed,
    )


def resolve_loss(config: Config):
    """The loss configuration with `beta` filled in: 2 with labels, as published, else 1 / temperature."""
    if config.loss.beta is not None:
        return config.loss
    beta = 2.0 if config.data.labelled else 1.0 / config.loss.temperature
    return dataclasses.replace(config.loss, beta=beta)


def make_schedule(config: Config, batch_size: int, total_steps: int):
    """The learning rate by step: a cosine from a peak that grows with the instances of a step."""
    peak = optimizers.peak_learning_rate(config.training) * batch_size * ROTATIONS / REFERENCE_INSTANCES
    return tf.keras.optimizers.schedules.CosineDecay(
        peak, max(total_steps, 1), alpha=config.training.final_learning_rate
    )


def global_batch_size(config: Config, count: int, replicas: int) -> int:
    """The batch size, at most the number of pictures, and a multiple of the replicas.

    Raises:
      UsageError: the batch size is not divisible by the replicas.
    """
    asked = config.training.batch_size
    if asked % replicas:
        lower = asked // replicas * replicas
        near = f"{lower} or {lower + replicas}" if lower else f"{replicas}"
        raise UsageError(f"--batch_size must be divisible by the {replicas} replicas: {near}. Received: {asked}")
    size = min(asked, count // replicas * replicas)
    if size == 0:
        raise UsageError(f"Training needs at least one picture a replica. Received: {count} for {replicas}")
    return size


class Trainer:
    """Trains one model on pictures in memory and keeps its checkpoints.

    Args:
      config: everything.
      pictures: uint8 [n, s, s, 3].
      labels: int32 [n].
      directory: where checkpoints go; none are written without one.
    """

    def __init__(self, config: Config, pictures: np.ndarray, labels: np.ndarray, directory=None):
        self.config = config
        self.pictures, self.labels = pictures, labels
        self.strategy = make_strategy(config.run.strategy)
        replicas = self.strategy.num_replicas_in_sync
        self.batch_size = global_batch_size(config, len(pictures), replicas)
        self.steps_per_epoch, self.epochs = len(pictures) // self.batch_size, config.training.epochs
        if config.training.max_steps:
            self.steps_per_epoch = min(self.steps_per_epoch, config.training.max_steps)
            self.epochs = min(self.epochs, config.training.max_steps // self.steps_per_epoch)
        with self.strategy.scope():
            self.model = build_model(config, pictures.shape[1])
            self.schedule = make_schedule(config, self.batch_size, self.total_steps)
            optimizer = optimizers.make_optimizer(config.training, self.schedule)
            stacks.build_optimizer(optimizer, self.model.trainable_variables)
            self.model.compile(optimizer=optimizer, jit_compile=False)
            self.checkpoint = tf.train.Checkpoint(
                encoder=self.model.encoder, projection_head=self.model.projection_head, optimizer=optimizer
            )
            self.manager = None
            if directory is not None:
                folder = pathlib.Path(directory) / "checkpoints"
                self.manager = tf.train.CheckpointManager(self.checkpoint, str(folder), max_to_keep=3)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    def restore(self) -> int:
        """Goes back to the newest checkpoint, if there is one; the number of epochs that it has seen."""
        if self.manager is not None and self.manager.latest_checkpoint is not None:
            with self.strategy.scope():
                self.checkpoint.restore(self.manager.latest_checkpoint).assert_existing_objects_matched()
        return step_of(self.model) // self.steps_per_epoch

    def fit(self, callbacks=()) -> MaskedContrastiveModel:
        """Trains from the newest checkpoint, or from the start, to the last epoch.

        Args:
          callbacks: Keras callbacks; one with `close` has it called, whatever happens.

        Returns:
          The trained model.

        Raises:
          UsageError: the loss is not finite; the checkpoints stay as they were before.
        """
        first = self.restore()
        if first:
            say(f"Going on after epoch {first} of {self.epochs}, from {self.manager.latest_checkpoint}.")
        if first < self.epochs:
            callbacks = [FiniteLoss(self.config), *callbacks]
            if self.manager is not None:
                callbacks.append(SaveCheckpoints(self.manager, self.config.run.checkpoint_every, self.epochs))
            batches = training_batches(
                self.pictures,
                self.labels,
                self.batch_size,
                self.config.data.seed,
                first * self.steps_per_epoch,
            )
            try:
                self.model.fit(
                    batches,
                    epochs=self.epochs,
                    initial_epoch=first,
                    steps_per_epoch=self.steps_per_epoch,
                    callbacks=callbacks,
                    shuffle=False,  # the batches are shuffled already
                    verbose=0,
                )
            finally:
                for callback in callbacks:
                    getattr(callback, "close", lambda: None)()
        return self.model


class SaveCheckpoints(tf.keras.callbacks.Callback):
    """Writes a checkpoint every few epochs and after the last one."""

    def __init__(self, manager: tf.train.CheckpointManager, every: int, epochs: int):
        super().__init__()
        self.manager, self.every, self.epochs = manager, every, epochs

    def on_epoch_end(self, epoch, logs=None):
        del logs
        if (epoch + 1) % self.every == 0 or epoch + 1 == self.epochs:
            self.manager.save(epoch + 1)
