"""Training: strategy, optimiser, schedule, checkpoints, resume.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 4.1; SGDR's cosine without restarts
(arXiv:1608.03983).
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import signal

import numpy as np
import tensorflow as tf

from mcl_tf import networks
from mcl_tf.config import Config
from mcl_tf.data.batches import training_batches
from mcl_tf.errors import Stopped, UsageError
from mcl_tf.model import MaskedContrastiveModel
from mcl_tf.training import optimizers
from mcl_tf.training.callbacks import FiniteLoss, RunningMeans, check_weights
from mcl_tf.training.checkpoints import CheckpointStore, SavingTimes
from mcl_tf.training.distribution import any_worker, is_chief, local_replicas, make_strategy
from mcl_tf.training.precision import compiles, precision_policy, with_loss_scaling
from mcl_tf.training.preemption import StopSignals, lost_workers
from mcl_tf.utils import compat
from mcl_tf.utils.console import say
from mcl_tf.views import ROTATIONS

REFERENCE_INSTANCES = 256  # the learning rate of the configuration is for so many instances a step


def build_model(config: Config, image_size: int) -> MaskedContrastiveModel:
    """An untrained model; its initial weights follow from the seed."""
    tf.keras.utils.set_random_seed(config.data.seed)
    penalised = optimizers.decays_gradients(config.training.optimizer)
    with precision_policy(config.training.precision):
        encoder = networks.build_encoder(config.model, image_size)
        head = networks.build_projection_head(config.model, encoder.output_shape[-1])
    return MaskedContrastiveModel(
        encoder,
        head,
        loss_config=resolve_loss(config),
        augmentation_config=config.augmentation,
        weight_decay=config.training.weight_decay if penalised else 0.0,
        seed=config.data.seed,
        decay_exclusions=config.training.decay_exclusions,
        clip_norm=config.training.clip_norm,
        ema=config.training.ema,
        loss_block_size=config.run.loss_block_size,
    )


def resolve_loss(config: Config):
    """The loss configuration with `beta` filled in: 2 with labels, as published, else 1 / temperature."""
    if config.loss.beta is not None:
        return config.loss
    beta = 2.0 if config.data.labelled else 1.0 / config.loss.temperature
    return dataclasses.replace(config.loss, beta=beta)


def make_schedule(config: Config, batch_size: int, total_steps: int, steps_per_epoch: int = 1):
    """The learning rate by step: after a linear rise a cosine from a peak that grows with a step's instances."""
    training = config.training
    peak = optimizers.peak_learning_rate(training) * batch_size * ROTATIONS / REFERENCE_INSTANCES
    rise = min(round(training.warmup_epochs * steps_per_epoch), total_steps)
    steps = max(total_steps - rise, 1)
    alpha = training.final_learning_rate
    if not rise:
        return tf.keras.optimizers.schedules.CosineDecay(peak, steps, alpha=alpha)
    return tf.keras.optimizers.schedules.CosineDecay(
        0.0, steps, alpha=alpha, warmup_target=peak, warmup_steps=rise
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

    Weights, figures and logs of a training follow from configuration, pictures and seed: one that was stopped
    and gone on with, however often, ends like one that was not.

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
            self.schedule = make_schedule(config, self.batch_size, self.total_steps, self.steps_per_epoch)
            optimizer = optimizers.make_optimizer(config.training, self.schedule, self.model.trainable_variables)
            optimizer = with_loss_scaling(optimizer, config.training.precision, replicas)
            compat.build_optimizer(optimizer, self.model.trainable_variables)
            self.model.compile(optimizer=optimizer, jit_compile=False)
        self.step, self.means = 0, RunningMeans()
        self.store: CheckpointStore | None = None
        if directory is not None:
            folder = pathlib.Path(directory) / "checkpoints"
            checkpoint, variables = _contents(self.model)
            self.store = CheckpointStore(folder, checkpoint, variables, config.run.keep_checkpoints)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def is_chief(self) -> bool:
        """Whether this process writes; of several workers one does."""
        return is_chief(self.strategy)

    def restore(self) -> int:
        """Goes back to the newest whole checkpoint, if there is one; the number of steps that it has seen.

        Raises:
          UsageError: the checkpoints are those of other code or all damaged, or resuming is switched off.
        """
        if self.store is None:
            return self.step
        if self.config.run.resume is False and self.store.steps():
            raise UsageError(
                f"--noresume starts anew, and {self.store.folder} holds the checkpoint of step "
                f"{self.store.steps()[0]}. Possible: another --run_dir, or without --noresume to go on with it"
            )
        with self.strategy.scope():
            facts = self.store.restore()
        if facts is not None:
            self.step, self.means = facts["step"], RunningMeans(**facts["means"])
            epoch, rest = divmod(self.step, self.steps_per_epoch)
            within = f" and {rest} of {self.steps_per_epoch} steps" if rest else ""
            say(f"Going on after epoch {epoch} of {self.epochs}{within}, from {self.store.path(self.step)}.")
        return self.step

    def save(self) -> bool:
        """Writes a checkpoint of the steps so far; whether one is there now."""
        if self.store is None or not self.is_chief:
            return True
        return self.store.save(self.step, {"means": dataclasses.asdict(self.means)})

    def fit(self, callbacks=()) -> MaskedContrastiveModel:
        """Trains from the newest checkpoint, or from the start, to the last epoch.

        Args:
          callbacks: Keras callbacks; one with `close` has it called, whatever happens.

        Returns:
          The trained model; with `ema`, its weights are their moving averages.

        Raises:
          UsageError: the loss or a weight is not finite; the checkpoints stay as they were before.
          Stopped: a signal, or another worker's end, stopped it; what was saved can be gone on with.
        """
        self.restore()
        if self.store is not None and self.is_chief:
            self.store.clean()
        if self.step < self.total_steps:
            callbacks = [FiniteLoss(self.config), *callbacks]
            try:
                with StopSignals() as signals, lost_workers(self.strategy, self.config.run) as alive:
                    self._loop(tf.keras.callbacks.CallbackList(callbacks, model=self.model), signals, alive)
            finally:
                for callback in callbacks:
                    getattr(callback, "close", lambda: None)()
        if self.model.averages is not None:
            self.model.averages.put()
        return self.model

    def _loop(self, callbacks, signals, alive) -> None:
        """The steps. Keras' `fit` begins with whole epochs only; the callbacks are called as it would."""
        step_function, batches = self._step_function(), self._batches()
        saving = SavingTimes(self.config.run)
        stop_together = any_worker(self.strategy)
        self.model.stop_training = False
        begun = False
        callbacks.on_train_begin()
        while self.step < self.total_steps and not self.model.stop_training:
            epoch, batch = divmod(self.step, self.steps_per_epoch)
            if batch == 0:
                self.means = RunningMeans()
            if batch == 0 or not begun:
                begun = True
                callbacks.on_epoch_begin(epoch)
            callbacks.on_train_batch_begin(batch)
            logs = self.means.update(step_function(next(batches)))
            alive()
            self.step += 1
            callbacks.on_train_batch_end(batch, logs)
            ended = self.step % self.steps_per_epoch == 0
            if ended:
                callbacks.on_epoch_end(epoch, logs)
            last = self.step == self.total_steps or self.model.stop_training
            stop = stop_together(signals.received is not None) and not last
            if saving.due(epoch + 1 if ended else None) or last or stop:
                check_weights(self.model, self.config)
                self.save()
                saving.done()
            if stop:
                raise Stopped(self._farewell(), 128 + (signals.received or signal.SIGTERM))
        callbacks.on_train_end()

    def _step_function(self):
        """A function batch -> {name: figure of the global batch}."""
        strategy = self.strategy

        @tf.function(jit_compile=compiles(self.config.run.jit_compile, strategy) or None, autograph=False)
        def step(batch):
            return strategy.run(self.model.optimize, args=(batch,))

        def figures(batch):
            found = step(batch)
            return {name: float(strategy.experimental_local_results(v)[0]) for name, v in found.items()}

        return figures

    def _batches(self):
        """An iterator of the batches from the present step on, as the strategy wants them."""
        config, strategy = self.config, self.strategy
        first, count = local_replicas(strategy)

        def batches(_):
            return training_batches(
                self.pictures,
                self.labels,
                self.batch_size,
                config.data.seed,
                self.step,
                balanced=config.training.balanced_batches,
                replicas=(first, count, strategy.num_replicas_in_sync),
            )

        if strategy.num_replicas_in_sync == 1:
            return iter(batches(None))
        return iter(strategy.distribute_datasets_from_function(batches))

    def _farewell(self) -> str:
        if self.store is None:
            return f"Stopped after step {self.step} of {self.total_steps}; without a run_dir nothing was kept"
        steps = self.store.steps()
        if not steps:
            return f"Stopped after step {self.step} of {self.total_steps}; no checkpoint could be saved"
        return (
            f"Stopped after step {self.step} of {self.total_steps}. {self.store.path(steps[0])} is kept: the same "
            "command goes on from there"
        )


def _contents(model: MaskedContrastiveModel):
    """What a checkpoint holds, and all of its variables by name."""
    parts = {"encoder": model.encoder, "projection_head": model.projection_head, "optimizer": model.optimizer}
    if model.averages is not None:
        parts["averages"] = model.averages.values
    variables = {}
    for name, part in parts.items():
        found = part if isinstance(part, list) else part.variables
        for place, variable in enumerate(found() if callable(found) else found):
            last = getattr(variable, "path", variable.name).split("/")[-1].split(":")[0]
            last = re.sub(r"_\d+(?=_|$)", "", last)  # Keras counts layers through a process
            variables[f"{name}[{place}] {last}"] = variable
    return tf.train.Checkpoint(**parts), variables
