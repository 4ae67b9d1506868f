"""Optimizers by name, and two of our own: fused momentum SGD and LARS.

References: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks" (arXiv:1708.03888), with the
exclusions of SimCLR (arXiv:2002.05709, section 2.3); Loshchilov and Hutter, AdamW (arXiv:1711.05101); You et al., LAMB
(arXiv:1904.00962); SGDR's cosine without restarts (arXiv:1608.03983).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.config import TrainingConfig, peak_learning_rate
from mcl_tf.utils import compat
from mcl_tf.views import ROTATIONS

TRUST_COEFFICIENT = 0.001  # eta of LARS, as in SimCLR
REFERENCE_INSTANCES = 256  # the learning rate of the configuration is for this number of instances per step


@tf.keras.utils.register_keras_serializable("mcl_tf")
class MomentumSGD(tf.keras.optimizers.SGD):
    """`tf.keras.optimizers.SGD` whose step is one fused operation per variable.

    The formula is that of Keras; without momentum, its code runs. On two CPU cores, the update of ten million weights
    takes half the time.
    """

    def update_step(self, gradient, variable, learning_rate=None):
        """Update one variable in place."""
        learning_rate = self.learning_rate if learning_rate is None else learning_rate
        if not self.momentum:
            super().update_step(*compat.update_arguments(gradient, variable, learning_rate))
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=compat.slot(self, self.momentums, variable).handle,
            lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
            momentum=tf.cast(self.momentum, variable.dtype),
            use_nesterov=self.nesterov,
        )


@tf.keras.utils.register_keras_serializable("mcl_tf")
class LARS(MomentumSGD):
    """Momentum SGD with a learning rate per layer, proportional to |weights| / |gradient|.

    The L2 penalty and the adaptation skip biases and normalization (weights of fewer than two dimensions), which take
    plain momentum steps.

    Args:
      *args: arguments of `MomentumSGD`.
      l2: float, L2 penalty, added to the gradient before its norm is taken.
      trust_coefficient: float, eta of the paper.
      **kwargs: arguments of `MomentumSGD`.
    """

    def __init__(self, *args, l2: float = 0.0, trust_coefficient: float = TRUST_COEFFICIENT, **kwargs):
        super().__init__(*args, **kwargs)
        self.l2 = l2
        self.trust_coefficient = trust_coefficient

    def update_step(self, gradient, variable, learning_rate=None):
        """Update one variable in place."""
        if variable.shape.rank > 1:
            gradient += self.l2 * variable
            weights_norm, gradient_norm = tf.norm(variable), tf.norm(gradient)
            trust = tf.math.divide_no_nan(self.trust_coefficient * weights_norm, gradient_norm)
            gradient *= tf.where((weights_norm > 0.0) & (gradient_norm > 0.0), trust, 1.0)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        """Return the constructor arguments."""
        return {**super().get_config(), "l2": self.l2, "trust_coefficient": self.trust_coefficient}


def decays_gradients(name: str) -> bool:
    """Return whether the model adds the L2 penalty to the gradients: for SGD; the others decay in their own way."""
    return name == "sgd"


def make_schedule(config: TrainingConfig, batch_size: int, total_steps: int, steps_per_epoch: int = 1):
    """Create the learning rate schedule: a linear rise, then a cosine; the peak is proportional to the batch.

    Args:
      config: learning rate, warm-up and final learning rate.
      batch_size: number of images per global batch.
      total_steps: number of optimizer steps of the training.
      steps_per_epoch: number of optimizer steps per epoch.
    """
    peak = peak_learning_rate(config) * batch_size * ROTATIONS / REFERENCE_INSTANCES
    rise = min(max(round(config.warmup_epochs * steps_per_epoch), config.warmup_steps), total_steps)
    steps = max(total_steps - rise, 1)
    alpha = config.final_learning_rate
    make = tf.keras.optimizers.schedules.CosineDecay
    # The schedule computes in the dtype of its first argument; a Python number would take the floatx of Keras.
    if not rise:
        return make(np.float32(peak), steps, alpha=alpha)
    return make(np.float32(0.0), steps, alpha=alpha, warmup_target=peak, warmup_steps=rise)


def make_optimizer(config: TrainingConfig, learning_rate, weights=()) -> tf.keras.optimizers.Optimizer:
    """Create the optimizer that the configuration names.

    Args:
      config: optimizer, momentum, weight_decay, decay_exclusions.
      learning_rate: a number or a schedule.
      weights: the weights to train. With `decay_exclusions`, adamw and lamb do not decay those of fewer than two
        dimensions.

    Raises:
      UsageError: `lamb` where neither Keras nor TensorFlow Addons has it.
    """
    momentum, decay = config.momentum, config.weight_decay
    if config.optimizer in ("adamw", "lamb"):
        make = tf.keras.optimizers.AdamW if config.optimizer == "adamw" else compat.lamb
        optimizer = make(learning_rate, weight_decay=decay)
        if config.decay_exclusions:
            compat.exclude_from_decay(optimizer, [w for w in weights if len(w.shape) < 2])
        return optimizer
    if config.optimizer == "lars":
        # LARS uses classic momentum, not Nesterov's.
        return LARS(learning_rate, momentum, l2=decay)
    return MomentumSGD(learning_rate, momentum, nesterov=momentum > 0.0)
