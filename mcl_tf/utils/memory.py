"""Memory: how much is free, and how much a network needs."""

from __future__ import annotations

import pathlib

import numpy as np

_CGROUPS = (  # limit and usage of the control group that the process runs in, versions 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
# The peak of a training step was 0.8 to 1.35 times the outputs of all layers for ResNet-18, ResNet-50 and `small` at 32
# to 224 pixels; memory that TensorFlow keeps for reuse is included.
_TRAINING_FACTOR = 1.35
# In inference only the outputs of neighbouring layers exist at a time.
_INFERENCE_FACTOR = 4.0


def available() -> int | None:
    """Return the number of free bytes, within the limit of a container; None where the system does not tell."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    for limit, usage in _CGROUPS:
        try:
            left = int(pathlib.Path(limit).read_text()) - int(pathlib.Path(usage).read_text())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        free = min(free, left)
    return max(free, 0)


def training_bytes_per_view(encoder) -> int:
    """Estimate the memory that one view takes in a training step.

    Args:
      encoder: functional Keras model.
    """
    return int(_TRAINING_FACTOR * sum(_layer_bytes(encoder)))


def inference_bytes_per_view(encoder) -> int:
    """Estimate the memory that one view takes when it is embedded.

    Args:
      encoder: functional Keras model.
    """
    return int(_INFERENCE_FACTOR * max(_layer_bytes(encoder)))


def _layer_bytes(encoder) -> list[int]:
    """Return the size of the output of every layer for one view."""
    sizes = []
    for layer in encoder.layers:
        outputs = layer.output if isinstance(layer.output, (list, tuple)) else [layer.output]
        for output in outputs:
            width = 2 if "16" in str(output.dtype) else 8 if "64" in str(output.dtype) else 4
            sizes.append(int(np.prod([side or 1 for side in output.shape[1:]])) * width)
    return sizes
