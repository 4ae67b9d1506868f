"""Trains a tiny model, writes weights and logs: python tests/training/train_worker.py OUT REPLICAS [name=value]

With TF_CONFIG and strategy=multi_worker it is one worker of several. A process of its own, since one takes
strategies of one size only. With MCL_TF_FLOAT64 it expects a copy of mcl_tf that says float64 for float32.
"""

import functools
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from mcl_tf import normalization
from mcl_tf.config import Config
from mcl_tf.errors import Stopped
from mcl_tf.training.distribution import make_strategy
from mcl_tf.training.trainer import Trainer

OPTIONS = dict(
    encoder="small", width=0.25, projection_hidden=16, projection_dim=8, batch_size=16, labelled=True, epochs=5
)


class Record(tf.keras.callbacks.Callback):
    """Keeps the logs of every step, and the first gradients: what momentum has summed after one step."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(dict(logs))
        if len(self.steps) == 1:
            found = (v for v in self.model.optimizer.variables if len(v.shape) > 0)
            self.gradients = {f"gradient {place}": v.numpy() for place, v in enumerate(found)}


def compute_in_float64() -> None:
    """Changes what is still float32 then: TensorFlow's defaults, and the fused kernel, which has no other type."""
    where, fused = tf.where, normalization.SynchronizedBatchNormalization

    def wide(value):
        value = tf.convert_to_tensor(value)
        return tf.cast(value, tf.float64) if value.dtype.is_floating else value

    def unfused(self, x, mean, variance, training):
        mean, variance = tf.nn.moments(x, [0, 1, 2]) if training else (mean, variance)
        mean, variance, offset, scale = map(tf.convert_to_tensor, (mean, variance, self.beta, self.gamma))
        outputs = tf.nn.batch_normalization(x, mean, variance, offset, scale, self.epsilon)
        count = tf.cast(tf.size(x) / x.shape[-1], tf.float64)
        return outputs, mean, variance * count / (count - 1.0)

    tf.keras.backend.set_floatx("float64")
    tf.one_hot = functools.partial(tf.one_hot, dtype=tf.float64)
    tf.where = lambda condition, *values: where(condition, *map(wide, values))
    fused._fused = unfused


def main(out: str, replicas: int, *options: str) -> int:
    """Trains 10 steps (5 epochs of 2)."""
    if os.environ.get("MCL_TF_FLOAT64"):
        compute_in_float64()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    overrides = {**OPTIONS, "strategy": "mirrored" if replicas > 1 else "auto"}
    for option in options:
        name, value = option.split("=")
        overrides[name] = json.loads(value) if value[0].isdigit() or value in ("true", "false") else value
    config = Config().replace(**overrides)
    make_strategy(config.run.strategy)
    pictures = np.random.default_rng(0).integers(0, 256, (35, 16, 16, 3), dtype=np.uint8)
    record = Record()
    trainer = Trainer(config, pictures, (np.arange(35) % 3).astype(np.int32), config.run.run_dir or None)
    before = [w.numpy() for w in trainer.model.weights]
    try:
        trainer.fit([record])
    except Stopped as error:
        print(error, file=sys.stderr)
        return error.code
    names = [f"{place} {w.name}" for place, w in enumerate(trainer.model.weights)]
    weights = {name: w.numpy() for name, w in zip(names, trainer.model.weights, strict=True)}
    moved = max(np.abs(w - b).max() for w, b in zip(weights.values(), before, strict=True))
    np.savez(pathlib.Path(out), logs=json.dumps(record.steps), moved=moved, **weights, **record.gradients)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
