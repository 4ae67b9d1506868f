"""A model of the step's time from operations and bytes, for one device and several.

A step of N views on R replicas takes the longer of what the device and what the host needs, and then the exchange:

  device    network and augmentation of N / R views, and the losses' N / R rows of N similarities of D dimensions
  host      dispatch of the operations of one replica, whatever their size
  exchange  N D numbers of projections forward and back, the gradients, and two sums forward and back per normalization

Work takes operations / (share x peak) + bytes / (share x bandwidth), one after the other.
"""

from __future__ import annotations

import dataclasses

DIMENSION = 128  # D
PER_MACHINE = 8  # GPUs

# Passes over an array that its operations make, each a reading or a writing.
NETWORK_PASSES = 12  # the output of every convolution: statistics, normalization, ReLU, next layer, and all of it back
_LOSS_PASSES = 16  # the N / R x N matrices of the losses, which TensorFlow does not fuse without XLA
_AUGMENTATION_PASSES = 12  # the pixels of a view, float32
_LOSS_PEAK = 10  # bytes per similarity at the peak, as measured (README.md, "How cost grows")
_BLOCKED = 1.5  # times the losses' work: the backward pass computes the similarities of a block again


@dataclasses.dataclass(frozen=True)
class Device:
    """What a device and its connections do at most.

    Attributes:
      operations: per second, in the precision of the network.
      products: per second, in that of the losses.
      bandwidth: bytes per second of its memory.
      memory: bytes.
      link: bytes per second, in each direction, to the others of its machine.
      network: bytes per second, in each direction, to other machines, per device.
    """

    operations: float
    products: float
    bandwidth: float
    memory: float
    link: float
    network: float


# Without sparsity: NVIDIA, "H100 Tensor Core GPU" datasheet, SXM: bfloat16 989 TFLOP/s, TF32 494 TFLOP/s, 3.35 TB/s,
# 80 GB, NVLink 900 GB/s in both directions together; "DGX H100" datasheet: one 400 Gb/s port per GPU.
H100 = Device(989e12, 494e12, 3.35e12, 80e9, 450e9, 50e9)
H200 = dataclasses.replace(H100, memory=141e9, bandwidth=4.8e12)  # "H200" datasheet, SXM
MEASURED = ("resnet18", 1024, 11.1e-3)  # network, views and seconds of a step on one H200, bfloat16, compiled by XLA


@dataclasses.dataclass(frozen=True)
class Shares:
    """How much of a device the step reaches, and what is no matter of size.

    Attributes:
      operations: share of the peak that products and convolutions reach. This and `bandwidth` were assumed to be 0.4
        and 0.6, and multiplied by a common factor, with which the model gives the step of `MEASURED`.
      bandwidth: share of the bandwidth of the memory and of the connections.
      latency: seconds of a small sum over the GPUs of one machine.
      far_latency: seconds of a small sum over several machines.
      host: seconds that the host takes to dispatch a step: 2,900 operations of ResNet-18 with 4 channels, 16 pixels and
        one image took 17 ms of processor time on two CPU cores.
      compiled_host: the same for a step that XLA compiles, which is that on one GPU: 22,400 steps of the preset
        `cpu_long`, 256 views, took 1.46 ms each on an H200, driven from Python.
    """

    operations: float = 0.504
    bandwidth: float = 0.756
    latency: float = 20e-6
    far_latency: float = 60e-6
    host: float = 17e-3
    compiled_host: float = 1.46e-3


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network costs.

    Attributes:
      operations: of encoder and head per view, forward.
      elements: numbers that its convolutions and dense layers put out per view.
      held: bytes that the backward pass needs per view, in bfloat16.
      weights: the number of trained weights.
      normalizations: the number of batch normalizations.
      size: side of a view in pixels.
    """

    operations: float
    elements: float
    held: float
    weights: int
    normalizations: int
    size: int = 32


def describe(name: str) -> Network:
    """Return the costs of a network of the benchmarks' table, in bfloat16; see `subjects.CONFIGURATIONS`."""
    import numpy as np
    import tensorflow as tf

    from benchmarks import gpu, subjects
    from mcl_tf.normalization import SynchronizedBatchNormalization
    from mcl_tf.training.trainer import build_model
    from mcl_tf.utils.memory import training_bytes_per_view

    model = build_model(subjects.configuration(name).replace(precision="bfloat16"), subjects.SIZE)
    layers = [*model.encoder.layers, *model.projection_head.layers]
    counted = [layer for layer in layers if isinstance(layer, (tf.keras.layers.Conv2D, tf.keras.layers.Dense))]
    return Network(
        gpu.forward_operations(model),
        sum(int(np.prod(layer.output.shape[1:])) for layer in counted),
        training_bytes_per_view(model.encoder),
        sum(int(np.prod(weight.shape)) for weight in model.trainable_variables),
        sum(isinstance(layer, SynchronizedBatchNormalization) for layer in layers),
        subjects.SIZE,
    )


def step(network: Network, views: int, replicas: int, device=H100, shares=Shares(), blocked=False) -> dict[str, float]:
    """Return the seconds of the parts of a step by name; `step` is the whole.

    Args:
      network: the network, in 2 bytes per number.
      views: N, of the global batch.
      replicas: R.
      device: the device.
      shares: how much of it is reached.
      blocked: whether the loss is computed in blocks.
    """
    own = views / replicas
    bandwidth = shares.bandwidth * device.bandwidth

    def work(operations, peak, moved):
        return operations / (shares.operations * peak) + moved / bandwidth

    pixels = 3 * network.size**2
    parts = {
        "network": work(3 * own * network.operations, device.operations, own * 2 * NETWORK_PASSES * network.elements),
        "augmentation": work(own * 4 * pixels * network.size, device.products, own * 4 * _AUGMENTATION_PASSES * pixels),
        "loss": work(6 * own * views * DIMENSION, device.products, 4 * _LOSS_PASSES * own * views),
    }
    parts["loss"] *= _BLOCKED if blocked else 1.0
    host = shares.host if replicas > 1 else shares.compiled_host
    parts["host"] = max(0.0, host - sum(parts.values()))
    parts.update(_exchange(network, views, replicas, device, shares))
    return {**parts, "step": sum(parts.values())}


def _exchange(network: Network, views: int, replicas: int, device: Device, shares: Shares) -> dict[str, float]:
    """Return the seconds of the exchange by what is exchanged; a replica has nothing to exchange with itself."""
    if replicas == 1:
        return {"projections": 0.0, "gradients": 0.0, "moments": 0.0}
    far = replicas > PER_MACHINE
    latency = shares.far_latency if far else shares.latency

    def seconds(received, sent_far):
        slow = sent_far / (shares.bandwidth * device.network) if far else 0.0
        return latency + received / (shares.bandwidth * device.link) + slow

    others = (replicas - 1) / replicas
    projections, gradients = 4.0 * views * DIMENSION * others, 8.0 * network.weights * others
    return {
        # Gathered forward; the sum of the gradients of all of them comes back, which is twice as much.
        "projections": 3 * seconds(projections, projections / PER_MACHINE),
        # Summed within the machines first, so that every device carries its part of the sum between them.
        "gradients": seconds(gradients, gradients / PER_MACHINE),
        "moments": 4 * network.normalizations * latency,  # mean, then variance, and both again for the gradients
    }


def memory(network: Network, views: int, replicas: int, block_size: int = 0) -> float:
    """Return the bytes that a replica needs at the peak.

    Args:
      network: the network.
      views: N, of the global batch.
      replicas: R.
      block_size: anchors per block of the loss; 0 for all at once.
    """
    own = views / replicas
    return own * network.held + _LOSS_PEAK * (block_size or own) * views + 16 * network.weights


def largest_batch(network: Network, replicas: int, block_size: int = 0, device=H100) -> int:
    """Return the largest N, a multiple of 1,024, whose step fits into the memory."""
    views = 1024 * replicas // min(replicas, PER_MACHINE)
    while memory(network, 2 * views, replicas, block_size) <= device.memory:
        views *= 2
    while memory(network, views + 1024, replicas, block_size) <= device.memory:
        views += 1024
    return views


def equal_memory(network: Network) -> int:
    """Return the N at which the losses' matrices take as much memory as the network, whatever R."""
    return round(network.held / _LOSS_PEAK)
