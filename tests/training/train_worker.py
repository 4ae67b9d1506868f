"""Trains tiny models and writes their weights and logs: python tests/training/train_worker.py REPLICAS RUNS

RUNS is JSON, {output file: options}. The models are trained one after the other, by default for 10 steps (5 epochs of
2). Besides the options of the library there is `interrupt_after`, the number of steps after which a training is
interrupted, to be resumed from its run_dir. With TF_CONFIG and the strategy multi_worker, the process is one of several
workers. The tests start it as a process of its own for every number of replicas.
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import TrainingInterrupted
from mcl_tf.training.distribution import make_strategy
from mcl_tf.training.trainer import Trainer
from tests.training.training_helpers import InterruptAfter, Record, network_weights

DEFAULTS = dict(
    encoder="small", width=0.5, projection_hidden=16, projection_dim=32, batch_size=16, labelled=True, epochs=5
)
COUNT = 35


class FirstGradients(tf.keras.callbacks.Callback):
    """Keeps the momentum after the first step, which is the gradient times the learning rate."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def on_train_batch_end(self, batch, logs=None):
        if not self.values:
            momentums = (v for v in self.model.optimizer.variables if len(v.shape) > 0)
            self.values = {f"gradient {index}": v.numpy() for index, v in enumerate(momentums)}


def make_trainer(config: Config) -> Trainer:
    """Create a trainer; with float64, its metrics have that precision, too."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    folder = f"{config.run.run_dir}/checkpoints" if config.run.run_dir else None
    trainer = Trainer(config, images, (np.arange(COUNT) % 3).astype(np.int32), folder)
    if config.training.precision == "float64":
        with trainer.strategy.scope():
            names = list(trainer.model.trackers)
            trainer.model.trackers = {name: tf.keras.metrics.Mean(name=name, dtype="float64") for name in names}
    return trainer


def train(out: str, config: Config, interrupt_after: int | None) -> None:
    """Train one model and write weights, logs and first gradients."""
    record, gradients = Record(), FirstGradients()
    if interrupt_after is not None:
        try:
            make_trainer(config).fit([record, gradients, InterruptAfter(interrupt_after)])
            raise AssertionError("the training was not interrupted")
        except KeyboardInterrupt:
            pass
    trainer = make_trainer(config)
    variables = network_weights(trainer.model)
    before = [w.numpy() for w in variables]
    trainer.fit([record, gradients])
    weights = {f"weight {index}": w.numpy() for index, w in enumerate(variables)}
    moved = max(np.abs(w - b).max() for w, b in zip(weights.values(), before, strict=True))
    logs = [logs for (epoch, _), logs in record.logs.items() if epoch != "epoch"]
    np.savez(out, logs=json.dumps(logs), moved=moved, **weights, **gradients.values)


def main(replicas: int, runs: dict[str, dict]) -> int:
    """Train all models; return the exit code."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    for out, options in runs.items():
        options = {**DEFAULTS, "strategy": "mirrored" if replicas > 1 else "auto", **options}
        interrupt_after = options.pop("interrupt_after", None)
        config = Config().replace(**options)
        make_strategy(config.run.strategy)  # several workers must find each other before anything else
        try:
            train(out, config, interrupt_after)
        except TrainingInterrupted as error:
            print(error, file=sys.stderr)
            return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
