"""Optimisers by name, and the two that are ours: fused momentum SGD and LARS.

References: You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks" (arXiv:1708.03888), with
SimCLR's exclusions (arXiv:2002.05709, section 2.3); Loshchilov and Hutter, AdamW (arXiv:1711.05101); You et al.,
LAMB (arXiv:1904.00962).
"""

from __future__ import annotations

import tensorflow as tf

from mcl_tf.config import LEARNING_RATES, TrainingConfig
from mcl_tf.utils import compat

TRUST_COEFFICIENT = 0.001  # eta of LARS, as in SimCLR


@tf.keras.utils.register_keras_serializable("mcl_tf")
class MomentumSGD(tf.keras.optimizers.SGD):
    """`tf.keras.optimizers.SGD` whose step is one fused operation a variable.

    The formula is Keras' own; without momentum it is Keras' code. On two CPU cores it halved the time of an
    update of ten million weights.
    """

    def update_step(self, gradient, variable, learning_rate=None):
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
    """Momentum SGD with a learning rate a layer, proportional to |weights| / |gradient|.

    The L2 penalty and the adaptation skip biases and normalisation (weights of fewer than two dimensions), which
    take plain momentum steps.

    Args:
      l2: L2 penalty, added to the gradient before its norm is taken.
      trust_coefficient: eta of the paper.
    """

    def __init__(self, *args, l2: float = 0.0, trust_coefficient: float = TRUST_COEFFICIENT, **kwargs):
        super().__init__(*args, **kwargs)
        self.l2 = l2
        self.trust_coefficient = trust_coefficient

    def update_step(self, gradient, variable, learning_rate=None):
        if variable.shape.rank > 1:
            gradient += self.l2 * variable
            weights_norm, gradient_norm = tf.norm(variable), tf.norm(gradient)
            trust = tf.math.divide_no_nan(self.trust_coefficient * weights_norm, gradient_norm)
            gradient *= tf.where((weights_norm > 0.0) & (gradient_norm > 0.0), trust, 1.0)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2, "trust_coefficient": self.trust_coefficient}


def peak_learning_rate(config: TrainingConfig) -> float:
    """The learning rate asked for, or the optimiser's own, for 256 instances a step."""
    return LEARNING_RATES[config.optimizer] if config.learning_rate is None else config.learning_rate


def decays_gradients(name: str) -> bool:
    """Whether the model adds the L2 penalty to its gradients: for SGD; the others decay in their own way."""
    return name == "sgd"


def make_optimizer(config: TrainingConfig, learning_rate, weights=()) -> tf.keras.optimizers.Optimizer:
    """The optimiser that the configuration names.

    Args:
      config: optimizer, momentum, weight_decay, decay_exclusions.
      learning_rate: a number or a schedule.
      weights: those to be trained; with `decay_exclusions`, adamw and lamb leave those of fewer than two
        dimensions undecayed.

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
        # LARS' momentum is the classic one, without Nesterov's look ahead.
        return LARS(learning_rate, momentum, l2=decay)
    return MomentumSGD(learning_rate, momentum, nesterov=momentum > 0.0)
