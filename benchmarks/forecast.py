"""Writes benchmarks/scaling.md, what `scaling_model` foretells for several GPUs: python -m benchmarks.forecast."""

from __future__ import annotations

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks import scaling_model
from benchmarks.scaling_model import H100, MEASURED, NETWORK_PASSES, Network, Shares

FILE = pathlib.Path(__file__).parent / "scaling.md"
BATCHES = (4096, 8192, 16384, 32768)  # views
REPLICAS = {1: "One GPU", 8: "8 GPUs of one machine", 64: "64 GPUs, eight per machine"}
NETWORKS = ("resnet18", "small")
BLOCK_SIZE = 512  # anchors
PARTS = ("network", "loss", "host", "gradients", "projections", "moments")

# Milliseconds on two CPU cores, from the table of README.md.
PASSES = {"small": (256, 38.8), "resnet18": (64, 790.0), "resnet34": (64, 1480.0)}  # (views, forward and backward pass)
LOSSES = {512: 4.72, 2048: 24.1, 8192: 378.0}  # by views
LOGICAL_CPUS = {1: 48.5, 2: 65.9, 4: 96.7}  # the step of `small`

INTRODUCTION = """# Several GPUs: a forecast
Written by `python -m benchmarks.forecast`. **No line of the forecast is measured**. The form of the model is compared
with measurements on two CPU cores; the constants of the GPU are those of its datasheet, times shares. One step was
measured on one GPU, an H200, by `benchmarks/run_hlo.py`: {network}, {views:,} views, bfloat16, {milliseconds:.1f} ms.
With the shares that were assumed before, 0.4 and 0.6, the model gave 14.0 ms for it; they are 1.26 times as large now.
Nothing was measured on several GPUs.

## The model
A step of N views on R replicas takes `max(device, host) + exchange`. F is the number of operations of a view, forward,
A the number of values that its convolutions put out, P the number of weights, L that of batch normalizations, D = 128.

| part | operations | bytes |
|---|---|---|
| network | 3 F N / R | 24 A N / R, bfloat16 |
| losses | 6 D N^2 / R | 64 N^2 / R |
| projections, exchanged three times | | 4 D N |
| gradients | | 8 P |
| batch normalization | | 4 L sums of a few numbers, whose latency counts |
| host | | a constant per step |
"""
FORM = """
## Its form, on two CPU cores
Every group of three rows has two constants that are fitted to it. The passes give {rates};
they were measured when the ResNets had filters in their shortcuts. All logical CPUs share the cores, so that every
further one adds its own work, {per_replica:.0f} ms.

| point | measured | model | ratio |
|---|---|---|---|
"""
EXPLANATION = """
In the tables below, `host` is what the host needs beyond the device. `efficiency` is the step of a GPU that has its
share of the views alone, with a host without limits, divided by the step. Below 1,000 views or so per GPU the host is
the limit of several GPUs; XLA compiles the step of one GPU alone.
"""
BLOCKS = """
## Where the loss in blocks pays
Blocks save memory, not time: the backward pass computes the similarities again (that this takes 1.5 times the losses'
time is assumed, too). At once, the losses take 10 N^2 / R
bytes and the network what it keeps per view, so that both are equal at an N that does not depend on R. Below the
largest N that fits at once, blocks (here of {block_size} anchors) cost time for nothing. At the batches
above they never pay: those of ResNet-18 that do not fit are too much for the network alone.

| network | GPUs | equal at N | largest N at once | in blocks | step in blocks / at once, at the largest N at once |
|---|---|---|---|---|---|
"""


def fit(terms, values) -> tuple[list[float], list[float]]:
    """Fit a sum of terms, whose coefficients are at least 0, with the smallest relative errors.

    Args:
      terms: the terms of every point.
      values: the measured value of every point.

    Returns:
      The coefficients, and the values of the sum.
    """
    import numpy as np
    from scipy.optimize import nnls

    matrix, values = np.array(terms, float), np.array(values, float)
    coefficients, _ = nnls(matrix / values[:, None], np.ones(len(values)))
    return coefficients.tolist(), (matrix @ coefficients).tolist()


def form(networks: dict[str, Network]) -> str:
    """Return the section that compares the form of the model with measurements.

    Args:
      networks: those of `PASSES`.
    """
    points, moved = [], 4 * NETWORK_PASSES
    for name, (views, _) in PASSES.items():
        network = networks[name]
        points.append((3 * views * network.operations / 1e9, views * moved * network.elements / 1e9))
    lines = []

    def add(names, terms, measured):
        coefficients, found = fit(terms, measured)
        for name, value, expected in zip(names, measured, found, strict=True):
            lines.append(f"| {name} | {value:.4g} ms | {expected:.4g} ms | {value / expected:.2f} |\n")
        return coefficients

    names = [f"{name}, forward and backward pass of {views} views" for name, (views, _) in PASSES.items()]
    per_operation, per_byte = add(names, points, [milliseconds for _, milliseconds in PASSES.values()])
    names = [f"losses and their gradient, {views:,} views" for views in LOSSES]
    add(names, [(views, views**2) for views in LOSSES], list(LOSSES.values()))
    names = [f"step of `small`, logical CPUs: {count}" for count in LOGICAL_CPUS]
    _, per_replica = add(names, [(1, count - 1) for count in LOGICAL_CPUS], list(LOGICAL_CPUS.values()))
    rates = f"{1 / per_operation:.2f} TFLOP/s and {1000 / per_byte:.1f} GB/s"
    return FORM.format(rates=rates, per_replica=per_replica) + "".join(lines)


def constants(shares: Shares) -> str:
    """Return the section of the constants."""
    rows = {
        "bfloat16": (f"{H100.operations / 1e12:.0f} TFLOP/s", "datasheet of the H100 SXM, without sparsity"),
        "TF32, for the losses": (f"{H100.products / 1e12:.0f} TFLOP/s", "the same"),
        "memory": (f"{H100.memory / 1e9:.0f} GB, {H100.bandwidth / 1e12:.2f} TB/s", "the same"),
        "GPU to GPU in a machine": (f"{H100.link / 1e9:.0f} GB/s in each direction", "the same"),
        "machine to machine": (f"{H100.network / 1e9:.0f} GB/s per GPU", "datasheet of the DGX H100: 400 Gb/s per GPU"),
        "share of the operations": (f"{shares.operations:g}", "0.4 assumed, times 1.26, see above"),
        "share of all bandwidths": (f"{shares.bandwidth:g}", "0.6 assumed, times 1.26, see above"),
        "latency of a small sum in a machine": (f"{shares.latency * 1e6:.0f} us", "assumed"),
        "latency between machines": (f"{shares.far_latency * 1e6:.0f} us", "assumed"),
        "host per step": (
            f"{shares.host * 1e3:.0f} ms",
            "processor time of a step with 4 channels and 8 views, on a CPU",
        ),
        "the same, compiled by XLA": (f"{shares.compiled_host * 1e3:.2f} ms", "a step of `cpu_long` on one H200"),
    }
    lines = [f"| {name} | {value} | {source} |\n" for name, (value, source) in rows.items()]
    return "\n## Constants\n| constant | value | source |\n|---|---|---|\n" + "".join(lines)


def forecast(network: Network, name: str) -> str:
    """Return the section of the forecast for one network."""
    lines = []
    for replicas, title in REPLICAS.items():
        for views in BATCHES:
            parts = scaling_model.step(network, views, replicas)
            alone = scaling_model.step(network, views // replicas, 1, shares=Shares(compiled_host=0.0))["step"]
            gigabytes = scaling_model.memory(network, views, replicas) / 1e9
            needed = f"{gigabytes:.1f} GB" + ("" if gigabytes * 1e9 <= H100.memory else ", too much")
            milliseconds = " | ".join(f"{1000 * parts[part]:.3g}" for part in PARTS)
            lines.append(
                f"| {title} | {views:,} | {1000 * parts['step']:.3g} | {milliseconds} | {views / parts['step']:,.0f} | "
                f"{alone / parts['step']:.2f} | {needed} |\n"
            )
    head = f"| | views | step, ms | {' | '.join(PARTS)} | views/s | efficiency | memory per GPU |\n"
    return f"\n## Forecast: {name}, bfloat16, 32x32 pixels\n{head}{'|---' * (6 + len(PARTS))}|\n{''.join(lines)}"


def blocks(networks: dict[str, Network]) -> str:
    """Return the section about the loss in blocks."""
    lines = []
    for name, network in networks.items():
        for replicas in REPLICAS:
            dense, blocked = (scaling_model.largest_batch(network, replicas, size) for size in (0, BLOCK_SIZE))
            seconds = [scaling_model.step(network, dense, replicas, blocked=block)["step"] for block in (False, True)]
            lines.append(
                f"| {name} | {replicas} | {scaling_model.equal_memory(network):,} | {dense:,} | {blocked:,} | "
                f"{seconds[1] / seconds[0]:.2f} |\n"
            )
    return BLOCKS.format(block_size=BLOCK_SIZE) + "".join(lines)


def text() -> str:
    """Return the content of benchmarks/scaling.md."""
    networks = {name: scaling_model.describe(name) for name in PASSES}
    few = {name: networks[name] for name in NETWORKS}
    forecasts = "".join(forecast(network, name) for name, network in few.items())
    name, views, seconds = MEASURED
    introduction = INTRODUCTION.format(network=name, views=views, milliseconds=1000 * seconds)
    return introduction + form(networks) + constants(Shares()) + EXPLANATION + forecasts + blocks(few)


if __name__ == "__main__":
    FILE.write_text(text())
