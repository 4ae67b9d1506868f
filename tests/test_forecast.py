"""The forecast for several GPUs: its model by hand, and its document."""

import dataclasses

import pytest

from benchmarks import forecast, scaling_model
from benchmarks.scaling_model import Device, Network, Shares
from mcl_tf.utils import compat

# Everything takes one unit per second, so that the parts are numbers of operations and bytes.
DEVICE = Device(operations=1.0, products=1.0, bandwidth=1.0, memory=1e6, link=1.0, network=1.0)
SHARES = Shares(operations=1.0, bandwidth=1.0, latency=0.25, far_latency=0.5, host=0.0, compiled_host=0.0)
NETWORK = Network(operations=7.0, elements=5.0, held=1000.0, weights=100, normalizations=3, size=1)


def test_parts_of_a_step_by_hand():
    parts = scaling_model.step(NETWORK, 32, 4, DEVICE, SHARES)
    own, others = 8, 3 / 4
    assert parts["network"] == own * (3 * 7 + 2 * 12 * 5)
    assert parts["loss"] == own * 32 * (6 * 128 + 4 * 16)
    assert parts["projections"] == 3 * (0.25 + 4 * 32 * 128 * others)
    assert parts["gradients"] == 0.25 + 8 * 100 * others
    assert parts["moments"] == 4 * 3 * 0.25
    assert parts["step"] == pytest.approx(sum(value for name, value in parts.items() if name != "step"))
    assert scaling_model.step(NETWORK, 32, 4, DEVICE, SHARES, blocked=True)["loss"] == 1.5 * parts["loss"]


def test_one_replica_exchanges_nothing_and_waits_for_a_slow_host():
    slow = dataclasses.replace(SHARES, compiled_host=1e9)
    parts = scaling_model.step(NETWORK, 32, 1, DEVICE, slow)
    assert parts["projections"] == parts["gradients"] == parts["moments"] == 0.0
    assert parts["step"] == 1e9


def test_the_model_gives_the_step_that_was_measured():
    name, views, seconds = scaling_model.MEASURED
    parts = scaling_model.step(scaling_model.describe(name), views, 1, scaling_model.H200)
    assert parts["step"] == pytest.approx(seconds, rel=0.01)  # the shares have three digits


@pytest.mark.parametrize("replicas", [1, 8])
def test_the_largest_batch_fits_and_the_next_does_not(replicas):
    device = dataclasses.replace(DEVICE, memory=1e9)
    views = scaling_model.largest_batch(NETWORK, replicas, device=device)
    needed = [scaling_model.memory(NETWORK, n, replicas) for n in (views, views + 1024)]
    assert needed[0] <= device.memory < needed[1]
    assert scaling_model.largest_batch(NETWORK, replicas, 512, device) > views


@pytest.mark.skipif(not compat.KERAS_3, reason="with Keras 2 other values between the layers are bfloat16")
def test_the_document_in_the_repository_is_that_of_the_model():
    assert forecast.FILE.read_text() == forecast.text()
