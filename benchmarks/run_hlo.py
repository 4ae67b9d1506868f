"""Runs the training step that `benchmarks/hlo.py` has written: needs JAX and NumPy, and neither TensorFlow nor mcl_tf.

python run_hlo.py DIR                          steps and views a second, and the share of the device's peak
python run_hlo.py DIR --train                  the whole training; writes DIR/trained.npz
python run_hlo.py DIR --train --steps=1000     at most so many steps; the next call goes on from trained.npz

The last line is the result as JSON. The peak is that of a product of large matrices in the same precision and run;
`--peak` is the manufacturer's number, in TFLOP/s, beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from jax import export
from jax import numpy as jnp

PROGRAM, DESCRIPTION = "step.mlirbc", "step.json"
STATE, DATA, TRAINED = "state.npz", "data.npz", "trained.npz"
MATRIX_SIZE = {"gpu": 8192, "cpu": 1024}
ROUNDS = 5  # of the measurement; the result is their median


@dataclasses.dataclass(frozen=True)
class Training:
    """A training that `benchmarks/hlo.py` has written.

    Attributes:
      step: function of images uint8 [B, s, s, 3], labels int32 [B] and the state, a dictionary of arrays by name, which
        it consumes. It returns the metrics, float32 [m], and the new state.
      description: the content of `step.json`.
      state: the weights, the optimizer's variables and the number of steps so far, by name.
      images: uint8 [n, s, s, 3].
      labels: int32 [n].
      order: int32 [steps, B], the images of every step.
    """

    step: Callable
    description: dict
    state: dict
    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray

    @property
    def done(self) -> int:
        """The number of steps so far."""
        return int(self.state[self.description["counter"]])

    def batch(self, number: int):
        """Return images and labels of a step."""
        rows = self.order[number % len(self.order)]
        return self.images[rows], self.labels[rows]


def load(folder) -> Training:
    """Read a training, at the step that `trained.npz` has, if it is there.

    Args:
      folder: the folder that `benchmarks/hlo.py` has written.
    """
    folder = pathlib.Path(folder)
    description = json.loads((folder / DESCRIPTION).read_text())
    step = make_step((folder / PROGRAM).read_bytes(), description)
    newest = folder / TRAINED if (folder / TRAINED).exists() else folder / STATE
    with np.load(newest) as arrays, np.load(folder / DATA) as data:
        return Training(step, description, dict(arrays), data["images"], data["labels"], data["order"])


def make_step(program: bytes, description: dict):
    """Return the step as a compiled function, see `Training`.

    Args:
      program: a portable artifact of StableHLO.
      description: names, shapes and dtypes of its inputs and results, in their order.
    """
    jax.config.update("jax_enable_x64", True)  # the step counts in int64
    inputs, results = ([_form(entry) for entry in description[side]] for side in ("inputs", "results"))
    # `jax.export` calls only what JAX has exported. A function of the same inputs and results gives all that it wants
    # to know beside the program itself.
    like = jax.jit(lambda *_: [jnp.zeros(form.shape, form.dtype) for form in results], keep_unused=True)
    program_of_jax = dataclasses.replace(export.export(like)(*inputs), mlir_module_serialized=program)
    names = [entry["name"] for entry in description["inputs"]][2:]
    changed = [entry["name"] for entry in description["results"]][1:]

    def step(images, labels, state):
        metrics, *values = program_of_jax.call(images, labels, *(state[name] for name in names))
        return metrics, {**state, **dict(zip(changed, values, strict=True))}

    return jax.jit(step, donate_argnums=2)


def _form(entry: dict) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(entry["shape"]), np.dtype(entry["dtype"]))


def train(training: Training, steps: int, report=lambda number, metrics: None):
    """Take some steps.

    Args:
      training: the training.
      steps: the number of steps.
      report: called after every step with its number, from 1 on, and its metrics on the device.

    Returns:
      (float32 [steps, m], the metrics of every step; the state after the last one), NumPy arrays.
    """
    state, metrics, first = jax.device_put(training.state), [], training.done
    for number in range(first, first + steps):
        values, state = training.step(*training.batch(number), state)
        metrics.append(values)
        report(number + 1, values)
    return np.array(jax.device_get(metrics)), jax.device_get(state)


def measure(training: Training, steps: int, peak: float = 0.0) -> dict:
    """Return the speed of the step, with a new batch from NumPy at every step.

    Args:
      training: the training.
      steps: the number of steps per round.
      peak: the manufacturer's peak in TFLOP/s; 0 if it is not to be reported.
    """
    state = jax.device_put(training.state)
    start = time.perf_counter()
    values, state = training.step(*training.batch(0), state)
    values.block_until_ready()
    first = time.perf_counter() - start
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for number in range(steps):
            values, state = training.step(*training.batch(number), state)
        values.block_until_ready()
        rounds.append((time.perf_counter() - start) / steps)
    seconds = statistics.median(rounds)
    achieved = training.description["operations"] / seconds / 1e12
    product = product_peak(training.description["precision"])
    result = {
        "compilation_and_first_step_s": first,
        "steps_per_s": 1.0 / seconds,
        "fastest_and_slowest_round": [1.0 / max(rounds), 1.0 / min(rounds)],
        "views_per_s": training.description["views"] / seconds,
        "tflops": achieved,
        "product_tflops": product,
        "share_of_product": achieved / product,
    }
    if peak:
        result.update(peak_tflops=peak, share_of_peak=achieved / peak)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {**result, "peak_memory_bytes": memory} if memory else result


def product_peak(precision: str) -> float:
    """Return the TFLOP/s of a product of large matrices.

    Args:
      precision: "bfloat16", or float32, with whatever the device makes of its products by default.
    """
    size = MATRIX_SIZE.get(jax.default_backend(), MATRIX_SIZE["gpu"])
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(10):
            result = product(matrix, matrix)
        result.block_until_ready()
        rounds.append((time.perf_counter() - start) / 10)
    return 2.0 * size**3 / statistics.median(rounds) / 1e12


def run_training(training: Training, folder: pathlib.Path, steps: int) -> dict:
    """Train to the end, or for at most `steps` steps if these are not 0, and write the state and the metrics."""
    left = len(training.order) - training.done
    steps, names = min(steps or left, left), training.description["metrics"]
    started = [time.perf_counter()] * 2  # of all steps, and of those after the first, which is compiled

    def report(number, metrics):
        if number == training.done + 1:
            metrics.block_until_ready()
            started[1] = time.perf_counter()
        if number % max(1, len(training.order) // 20) == 0:
            shown = ", ".join(f"{name} {float(value):.4f}" for name, value in zip(names, metrics, strict=True))
            print(f"step {number} of {len(training.order)}: {shown}", flush=True)

    metrics, state = train(training, steps, report)
    ended = time.perf_counter()
    _write(folder / TRAINED, state)
    result = {"steps": steps, "seconds": ended - started[0], "done": training.done + steps}
    if steps > 1:
        result["steps_per_s_after_the_first"] = (steps - 1) / (ended - started[1])
    if steps:
        result["metrics"] = dict(zip(names, map(float, metrics[-1]), strict=True))
    return result


def _write(path: pathlib.Path, arrays: dict) -> None:
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **arrays)
    os.replace(unfinished, path)


def main() -> None:
    """Measure the step, or train."""
    parser = argparse.ArgumentParser(prog="run_hlo.py", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="what benchmarks/hlo.py has written")
    parser.add_argument("--train", action="store_true", help="train instead of measuring the speed")
    parser.add_argument(
        "--steps", type=int, default=0, help="at most so many steps; per round without --train, 20 there"
    )
    parser.add_argument("--peak", type=float, default=0.0, help="the manufacturer's peak of the device in TFLOP/s")
    options = parser.parse_args()
    if not (options.folder / DESCRIPTION).is_file():
        parser.error(f"{options.folder} must be a folder that benchmarks/hlo.py has written")
    if options.steps < 0:
        parser.error(f"--steps must be at least 0. Received: {options.steps}")
    training = load(options.folder)
    if options.train:
        result = run_training(training, options.folder, options.steps)
    else:
        result = measure(training, options.steps or 20, options.peak)
    device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    given = {name: training.description[name] for name in ("encoder", "precision", "views")}
    print(json.dumps({**device, **given, **result}))


if __name__ == "__main__":
    main()
