"""Writes the training step as StableHLO, with all that it needs, for machines that have JAX and no TensorFlow.

python -m benchmarks.hlo DIR --dataset=digits --image_size=32 --encoder=resnet18 --batch_size=128   flags as of main.py
python benchmarks/run_hlo.py DIR                                    there: how fast it is
python benchmarks/run_hlo.py DIR --train                            there: the whole training
python -m benchmarks.hlo DIR --score                                here: the AUROC of the weights that came back

The program is one optimizer step: views, augmentation, network, both losses, gradients and the update of all variables.
Its random numbers follow from the seed, which is part of it, and from the number of the step, which is one of the
variables, so that steps are those of `Trainer` with the same batches. DIR has

step.mlirbc  the program, a portable artifact of StableHLO, of any platform: XLA's compilers come after it
step.json    inputs and results of the program in their order, with names, shapes and dtypes, and the configuration
state.npz    the variables at the start, by name
data.npz     images uint8 [n, s, s, 3], labels int32 [n], order int32 [steps, B], the images of every step
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np
import tensorflow as tf

from benchmarks import gpu
from mcl_tf import AnomalyDetector, Config
from mcl_tf.data import arrays
from mcl_tf.data.batches import training_batches
from mcl_tf.data.tasks import Task, build_task
from mcl_tf.errors import UsageError
from mcl_tf.model import METRICS
from mcl_tf.normal_images import NormalImages
from mcl_tf.scored_test import score_test
from mcl_tf.training.trainer import Trainer
from mcl_tf.utils.atomic import atomic_folder
from mcl_tf.views import ROTATIONS

# The names of the files; benchmarks/run_hlo.py, which imports nothing of ours, has them too.
PROGRAM, DESCRIPTION = "step.mlirbc", "step.json"
STATE, DATA, TRAINED = "state.npz", "data.npz", "trained.npz"


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step as StableHLO.

    Attributes:
      artifact: the portable artifact.
      inputs: names of the variables that it reads; images and labels are its first two inputs.
      results: names of the variables that it changes; the metrics are its first result.
    """

    artifact: bytes
    inputs: list[str]
    results: list[str]


def variables(model) -> dict[str, tf.Variable]:
    """Return all variables that a step can read, by name."""
    parts = {"encoder": model.encoder, "projection_head": model.projection_head, "rotation_head": model.rotation_head}
    lists = {name: part.variables for name, part in parts.items() if part is not None}
    lists["optimizer"] = model.optimizer.variables
    lists["averages"] = model.averages.values if model.averages is not None else []
    return {f"{name}/{index}": _plain(v) for name, part in lists.items() for index, v in enumerate(part)}


def _plain(variable) -> tf.Variable:
    """Return TensorFlow's variable behind one of Keras."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def lower(model, batch_size: int) -> Program:
    """Compile a step as far as StableHLO.

    Args:
      model: a compiled `MaskedContrastiveModel`.
      batch_size: the number of images.

    Raises:
      UsageError: this TensorFlow does not give StableHLO, or the step reads something beside the model's variables.
    """
    try:
        from tensorflow.compiler.mlir.stablehlo import stablehlo
    except ImportError:
        message = f"StableHLO needs a newer TensorFlow; 2.21 has it. Received: {tf.__version__}"
        raise UsageError(message) from None

    def optimize(images, labels):
        metrics = model.optimize(images, labels)
        return tf.stack([metrics[name] for name in METRICS])  # one result: XLA leaves out those that are constant

    step = tf.function(optimize, jit_compile=True, autograph=False)
    form = [
        tf.TensorSpec([batch_size, *model.encoder.input_shape[1:]], tf.uint8),
        tf.TensorSpec([batch_size], tf.int32),
    ]
    names = {id(variable.handle): name for name, variable in variables(model).items()}
    # The variables that a function reads are the inputs after its arguments, in this order.
    inputs = [names.get(id(handle), "") for handle in step.get_concrete_function(*form).captured_inputs]
    if not all(inputs):
        raise UsageError(f"The step of {model.encoder.name} reads a variable that is none of model and optimizer")
    text = step.experimental_get_compiler_ir(*form)(stage="stablehlo")
    results = _changed(text, inputs)
    # Not an operation of StableHLO. It copies a value, which nothing can change here.
    text = re.sub(r"mhlo\.copy (%\S+) : (tensor<\S+>)", r"stablehlo.reshape \1 : (\2) -> \2", text)
    artifact = stablehlo.serialize_portable_artifact_str(text, stablehlo.get_minimum_version())
    return Program(artifact, inputs, results)


def _changed(text: str, inputs: list[str]) -> list[str]:
    """Return the names of the variables in the results after the first: each replaces the input that it names."""
    pairs = re.findall(r"parameter_number = (\d+) : i64}, output_index = array<i64: (\d+)>", text)
    replaced = {int(result): inputs[int(parameter) - 2] for parameter, result in pairs}
    (results,) = re.findall(r"func\.func @main\(.*\) -> \((.*)\) \{", text)
    count = len(re.findall(r"tensor<", results))
    if sorted(replaced) != list(range(1, count)):
        raise UsageError(f"The step has {count} results, of which {len(replaced)} are variables; all but one should be")
    return [replaced[index] for index in range(1, count)]


def write(folder, config: Config, task: Task) -> None:
    """Write the training of a task.

    Args:
      folder: where to; it must not exist.
      config: the configuration.
      task: its images.

    Raises:
      UsageError: the folder exists, there are no steps to take, or the step cannot be written, see `lower`.
    """
    if pathlib.Path(folder).exists():
        raise UsageError(f"The folder to write must not exist. Received: {folder}")
    labels = task.train_labels if config.data.labelled else None
    normal = NormalImages.collect(task.train, labels, task.class_names, config.replace(run_dir=""))
    images = arrays.resize(normal.trained, normal.network_size)
    trainer = Trainer(config, images, normal.labels)
    model, size = trainer.model, trainer.batch_size
    if not trainer.total_steps:
        raise UsageError("A training that is written must have steps. Received: epochs 0")
    program, state = lower(model, size), variables(model)
    description = _describe(trainer, program, state)
    with atomic_folder(folder) as unfinished:
        (unfinished / PROGRAM).write_bytes(program.artifact)
        (unfinished / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n")
        np.savez(unfinished / STATE, **{name: state[name].numpy() for name in program.inputs})
        np.savez(unfinished / DATA, images=images, labels=normal.labels, order=_order(trainer))


def _describe(trainer: Trainer, program: Program, state: dict) -> dict:
    """Return the content of `step.json`."""
    config, model, size = trainer.config, trainer.model, trainer.batch_size
    dtypes = {"images": "uint8", "labels": "int32", "metrics": "float32"}
    shapes = {"images": [size, *trainer.images.shape[1:]], "labels": [size], "metrics": [len(METRICS)]}
    for name, variable in state.items():
        dtypes[name], shapes[name] = variable.dtype.name, variable.shape.as_list()
    form = lambda names: [{"name": name, "shape": shapes[name], "dtype": dtypes[name]} for name in names]  # noqa: E731
    views = 2 * ROTATIONS * size
    counter = _plain(model.optimizer.iterations)
    return {
        "inputs": form(["images", "labels", *program.inputs]),
        "results": form(["metrics", *program.results]),
        "metrics": METRICS,
        "counter": next(name for name, variable in state.items() if variable is counter),
        "views": views,
        "operations": 3.0 * views * gpu.forward_operations(model),
        "encoder": config.model.encoder,
        "precision": config.training.precision,
        "tensorflow": tf.__version__,
        "config": json.loads(config.to_json()),
    }


def _order(trainer: Trainer) -> np.ndarray:
    """Return the images of every step, int32 [steps, B]."""
    config, numbers = trainer.config, np.arange(len(trainer.images), dtype=np.int32)
    balanced = config.training.balanced_batches
    batches = training_batches(numbers, trainer.labels, trainer.batch_size, config.data.seed, balanced=balanced)
    return np.array([rows for rows, _ in batches.take(trainer.total_steps).as_numpy_iterator()], np.int32)


class Trained(tf.keras.callbacks.Callback):
    """Gives a training the variables of a finished one, in place of all of its steps.

    Args:
      state: {name: array}, see `variables`.
    """

    def __init__(self, state: dict):
        super().__init__()
        self.state = state

    def on_train_begin(self, logs=None):
        """Assign the variables and stop."""
        found = variables(self.model)
        for name, value in self.state.items():
            found[name].assign(value)
        self.model.stop_training = True


def score(folder, task: Task) -> dict:
    """Fit the detector of a finished training and return its metrics on the test split.

    Args:
      folder: has `trained.npz` of benchmarks/run_hlo.py.
      task: the images of the training.

    Raises:
      UsageError: the training is not finished.
    """
    config, folder = read_config(folder), pathlib.Path(folder)
    with np.load(folder / DATA) as data, np.load(folder / TRAINED) as trained:
        state, steps = dict(trained), len(data["order"])
    done = int(state[json.loads((folder / DESCRIPTION).read_text())["counter"]])
    if done != steps:
        raise UsageError(f"{folder / TRAINED} must have all {steps} steps. Received: {done}")
    labels = task.train_labels if config.data.labelled else None
    detector = AnomalyDetector(config.replace(run_dir=""), image_size=task.image_size, detail_size=task.detail_size)
    detector.fit(task.train, labels, class_names=task.class_names, callbacks=[Trained(state)], verbose=0)
    return score_test(detector.scorer_, task.test).metrics()


def read_config(folder) -> Config:
    """Return the configuration of a training that was written."""
    return Config.from_json(json.dumps(json.loads((pathlib.Path(folder) / DESCRIPTION).read_text())["config"]))


def main() -> int:
    """Write a training, or score one that was finished elsewhere; return the exit code."""
    from absl import flags as absl_flags

    import flags

    parser = argparse.ArgumentParser(prog="python -m benchmarks.hlo", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where to; all further flags are those of main.py")
    parser.add_argument("--score", action="store_true", help=f"score the test split with {TRAINED}")
    options, others = parser.parse_known_args()
    try:
        if options.score and not (options.folder / TRAINED).is_file():
            parser.error(f"{options.folder} must have {TRAINED}; benchmarks/run_hlo.py --train writes it")
        absl_flags.FLAGS(["benchmarks.hlo", *others])
        config = read_config(options.folder) if options.score else flags.config_from_flags()
        task = build_task(config.data, config.run.data_dir, score=config.scoring.score)
        if options.score:
            print(json.dumps(score(options.folder, task)))
        else:
            write(options.folder, config, task)
    except (UsageError, absl_flags.Error) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
