"""Training: the loop, its checkpoints, devices, optimizers and callbacks."""

from mcl_tf.training.trainer import Trainer, build_model

__all__ = ["Trainer", "build_model"]
