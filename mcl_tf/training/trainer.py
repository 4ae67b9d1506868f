"""The training loop, with checkpoints and resume.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 4.1.
"""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import signal

import numpy as np
import tensorflow as tf

from mcl_tf import networks
from mcl_tf.config import Config, LossConfig
from mcl_tf.data.batches import training_batches
from mcl_tf.errors import TrainingInterrupted, UsageError
from mcl_tf.model import MaskedContrastiveModel
from mcl_tf.training import optimizers
from mcl_tf.training.batch_size import global_batch_size, limit_to_memory
from mcl_tf.training.callbacks import TerminateOnNonFiniteLoss, check_weights
from mcl_tf.training.checkpoints import CheckpointSchedule, CheckpointStore, newest_metadata
from mcl_tf.training.distribution import any_worker, is_chief, local_replicas, make_strategy, workers
from mcl_tf.training.precision import dtype_policy, uses_xla, with_loss_scaling
from mcl_tf.training.preemption import PreemptionSignals, lost_workers
from mcl_tf.utils import compat

_logger = logging.getLogger(__name__)


def build_model(config: Config, image_size: int) -> MaskedContrastiveModel:
    """Build an untrained model; its initial weights follow from the seed.

    Args:
      config: the configuration.
      image_size: side of the images in pixels.
    """
    dtype, seed = dtype_policy(config.training.precision), config.data.seed
    encoder = networks.build_encoder(config.model, image_size, seed=seed, dtype=dtype)
    head = networks.build_projection_head(config.model, encoder.output_shape[-1], seed=seed, dtype=dtype)
    penalized = optimizers.decays_gradients(config.training.optimizer)
    return MaskedContrastiveModel(
        encoder,
        head,
        loss_config=resolve_loss(config),
        augmentation_config=config.augmentation,
        weight_decay=config.training.weight_decay if penalized else 0.0,
        seed=seed,
        decay_exclusions=config.training.decay_exclusions,
        clip_norm=config.training.clip_norm,
        ema=config.training.ema,
        loss_block_size=config.run.loss_block_size,
    )


def resolve_loss(config: Config) -> LossConfig:
    """Return the loss configuration with `beta` set: 2 with labels, as published, else 1 / temperature."""
    return dataclasses.replace(config.loss, beta=config.in_force()["beta"])


class Trainer:
    """Trains one model on images in memory or in a file and keeps its checkpoints.

    Weights, metrics and logs follow from configuration, images and seed. Resuming any number of times gives the same
    result as an uninterrupted run.

    Args:
      config: the configuration.
      images: uint8 [n, s, s, 3], an array or `StoredImages`.
      labels: int32 [n].
      folder: where checkpoints are kept; None for no checkpoints.
    """

    def __init__(self, config: Config, images: np.ndarray, labels: np.ndarray, folder=None):
        self.config = config
        self.images, self.labels = images, labels
        self.strategy = make_strategy(config.run.strategy)
        replicas = self.strategy.num_replicas_in_sync
        folder = None if folder is None else pathlib.Path(folder)
        with self.strategy.scope():
            self.model = build_model(config, images.shape[1])
        self.batch_size = self._choose_batch_size(folder)
        self.steps_per_epoch, self.epochs = len(images) // self.batch_size, config.training.epochs
        if config.training.max_steps:
            self.steps_per_epoch = min(self.steps_per_epoch, config.training.max_steps)
            self.epochs = min(self.epochs, config.training.max_steps // self.steps_per_epoch)
        with self.strategy.scope():
            schedule = optimizers.make_schedule(
                config.training, self.batch_size, self.total_steps, self.steps_per_epoch
            )
            optimizer = optimizers.make_optimizer(config.training, schedule, self.model.trainable_variables)
            optimizer = with_loss_scaling(optimizer, config.training.precision, replicas)
            compat.build_optimizer(optimizer, self.model.trainable_variables)
            self.model.compile(optimizer=optimizer, jit_compile=uses_xla(config.run.jit_compile, self.strategy))
        self.step = 0
        self.store: CheckpointStore | None = None
        if folder is not None:
            checkpoint, variables = _contents(self.model)
            self.store = CheckpointStore(folder, checkpoint, variables, config.run.keep_checkpoints)

    @property
    def total_steps(self) -> int:
        """The number of optimizer steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def is_chief(self) -> bool:
        """Whether this process writes; one of several workers does."""
        return is_chief(self.strategy)

    def restore(self) -> int:
        """Restore the newest complete checkpoint, if there is one, and return its number of steps.

        Raises:
          UsageError: the checkpoints are those of other code or all damaged, or `resume` is off.
        """
        if self.store is None:
            return self.step
        if not self.config.run.resume and self.store.steps():
            raise UsageError(
                f"resume is off, and {self.store.folder} holds the checkpoint of step {self.store.steps()[0]}. "
                "Choose another run_dir, or resume"
            )
        with self.strategy.scope():
            metadata = self.store.restore()
        if metadata is not None:
            self.step = metadata["step"]
            self._set_metric_state(metadata["metrics"])
            epoch, rest = divmod(self.step, self.steps_per_epoch)
            within = f" and {rest} of {self.steps_per_epoch} steps" if rest else ""
            path = self.store.path(self.step)
            _logger.info("Resuming after epoch %d of %d%s, from %s.", epoch, self.epochs, within, path)
        return self.step

    def save(self) -> bool:
        """Save a checkpoint of the present step; return whether it exists now."""
        if self.store is None or not self.is_chief:
            return True
        return self.store.save(self.step, {"metrics": self._metric_state(), "batch_size": self.batch_size})

    def fit(self, callbacks=()) -> MaskedContrastiveModel:
        """Train from the newest checkpoint, or from the start, to the last epoch.

        Args:
          callbacks: Keras callbacks. The `close` method of those that have one is called in any case.

        Returns:
          The trained model; with `ema`, its weights are their moving averages.

        Raises:
          UsageError: the loss or a weight is not finite; earlier checkpoints are kept.
          TrainingInterrupted: a signal, or the loss of another worker, stopped the training.
        """
        self.restore()
        if self.store is not None and self.is_chief:
            self.store.clean()
        if self.step < self.total_steps:
            callbacks = [TerminateOnNonFiniteLoss(self._advice()), *callbacks]
            parameters = {"epochs": self.epochs, "steps": self.steps_per_epoch, "batch_size": self.batch_size}
            try:
                with PreemptionSignals() as signals, lost_workers(self.strategy, self.config.run) as report_step:
                    loop = tf.keras.callbacks.CallbackList(callbacks, model=self.model, **parameters)
                    self._loop(loop, signals, report_step)
            finally:
                for callback in callbacks:
                    getattr(callback, "close", lambda: None)()
        if self.model.averages is not None:
            self.model.averages.copy_to_weights()
        return self.model

    def _loop(self, callbacks, signals, report_step) -> None:
        """Run the steps; unlike Keras' `fit`, it can begin within an epoch, and call the callbacks in the same way."""
        model, batches, train = self.model, self._batches(), self._train_function()
        schedule = CheckpointSchedule(self.config.run)
        any_stopped = any_worker(self.strategy)
        model.stop_training = False
        first_step = self.step
        callbacks.on_train_begin()
        while self.step < self.total_steps and not model.stop_training:
            epoch, batch = divmod(self.step, self.steps_per_epoch)
            if batch == 0:
                model.reset_metrics()
            if batch == 0 or self.step == first_step:
                callbacks.on_epoch_begin(epoch)
            callbacks.on_train_batch_begin(batch)
            with compat.without_retracing_warning():
                logs = train(batches)
            report_step()
            self.step += 1
            logs = {name: float(value) for name, value in logs.items()}
            callbacks.on_train_batch_end(batch, logs)
            epoch_ended = self.step % self.steps_per_epoch == 0
            if epoch_ended:
                callbacks.on_epoch_end(epoch, logs)
            last = self.step == self.total_steps or model.stop_training
            stop = any_stopped(signals.received is not None) and not last
            if schedule.is_due(epoch + 1 if epoch_ended else None) or last or stop:
                check_weights(model, self._advice())
                self.save()
                schedule.restart()
            if stop:
                raise TrainingInterrupted(self._farewell(), 128 + (signals.received or signal.SIGTERM))
        callbacks.on_train_end()

    def _train_function(self):
        """Return a function that trains on the next batch of an iterator and returns the metrics.

        It is Keras' own, except for several workers, between which Keras 3 cannot reduce scalars. Every replica has the
        metrics of the global batch.
        """
        model, strategy = self.model, self.strategy
        if workers(strategy) == 1:
            model.make_train_function()
            return model.train_function
        run = tf.function(lambda batch: strategy.run(model.train_step, args=(batch,)), autograph=False)

        def train(batches):
            results = run(next(batches))
            return {name: strategy.experimental_local_results(value)[0] for name, value in results.items()}

        return train

    def _batches(self):
        """Return an iterator over the batches from the present step on, as the strategy needs them."""
        config, strategy = self.config, self.strategy
        first, count = local_replicas(strategy)

        def batches(_):
            return training_batches(
                self.images,
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

    def _metric_state(self) -> list[float]:
        """Return the variables of the metrics; read per replica, since only the chief, not all workers, save."""
        variables = [v for metric in self.model.metrics for v in metric.variables]
        values = self.strategy.run(lambda: [tf.convert_to_tensor(v) for v in variables])
        return [float(self.strategy.experimental_local_results(value)[0]) for value in values]

    def _set_metric_state(self, values: list[float]) -> None:
        variables = [v for metric in self.model.metrics for v in metric.variables]
        if len(values) != len(variables):
            return  # a checkpoint of a version with other metrics; the weights do not depend on them

        def assign():
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

        self.strategy.run(assign)

    def _choose_batch_size(self, folder: pathlib.Path | None) -> int:
        """Return the batch size; a resumed training keeps its own, whatever memory is free now."""
        recorded = (newest_metadata(folder) or {}).get("batch_size") if folder is not None else None
        if recorded:
            return recorded
        replicas = self.strategy.num_replicas_in_sync
        size = global_batch_size(self.config.training.batch_size, len(self.images), replicas)
        if workers(self.strategy) > 1:
            return size  # machines with different memory would disagree
        encoder = self.config.model
        return limit_to_memory(size, replicas, self.model.encoder, lambda side: networks.build_encoder(encoder, side))

    def _advice(self) -> str:
        return (
            f"Try a smaller learning_rate (now {optimizers.peak_learning_rate(self.config.training):g}) or a larger "
            f"temperature (now {self.config.loss.temperature:g})"
        )

    def _farewell(self) -> str:
        stopped = f"Stopped after step {self.step} of {self.total_steps}"
        if self.store is None:
            return f"{stopped}; without a run_dir, nothing was saved"
        steps = self.store.steps()
        if not steps:
            return f"{stopped}; no checkpoint could be saved"
        return f"{stopped}. The same command resumes from {self.store.path(steps[0])}"


def _contents(model: MaskedContrastiveModel):
    """Return the checkpoint of a model, and {name: variable} of everything in it."""
    parts = {"encoder": model.encoder, "projection_head": model.projection_head, "optimizer": model.optimizer}
    if model.rotation_head is not None:
        parts["rotation_head"] = model.rotation_head
    if model.averages is not None:
        parts["averages"] = model.averages.values
    if states := compat.generator_states(model.encoder):
        parts["generators"] = states
    variables = {}
    for name, part in parts.items():
        own = part if isinstance(part, list) else part.variables
        for index, variable in enumerate(own() if callable(own) else own):
            last = getattr(variable, "path", variable.name).split("/")[-1].split(":")[0]
            last = re.sub(r"_\d+(?=_|$)", "", last)  # Keras numbers the layers of a process
            variables[f"{name}[{index}] {last}"] = variable
    return tf.train.Checkpoint(**parts), variables
