"""Precision: dtypes of weights, outputs and policy; XLA; the combinations that are refused."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.training.precision import dtype_policy, uses_xla, with_loss_scaling
from mcl_tf.utils import compat
from tests.training.training_helpers import STEPS, Record, make_trainer, network_weights, requires_loss_scaling


@pytest.mark.parametrize(
    ("precision", "policy"),
    [
        ("float32", "float32"),
        ("float64", "float64"),
        ("bfloat16", "mixed_bfloat16"),
        ("float16", "mixed_float16"),
    ],
)
def test_policy_by_precision(precision, policy):
    assert dtype_policy(precision) == policy


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=requires_loss_scaling)])
def test_mixed_precision_keeps_weights_and_outputs_in_float32(precision):
    mixed, plain = make_trainer(precision=precision, epochs=1), make_trainer(epochs=1)
    layers = [layer for layer in mixed.model.encoder.layers if layer.weights]
    assert {layer.compute_dtype for layer in layers} == {precision, "float32"}  # the latter of batch normalization
    assert {tf.as_dtype(w.dtype).name for w in network_weights(mixed.model)} == {"float32"}
    assert mixed.model(tf.zeros([2, 16, 16, 3])).dtype == tf.float32
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    expected, found = Record(), Record()
    plain.fit([expected])
    mixed.fit([found])
    losses = [record.logs["epoch", 0]["loss"] for record in (expected, found)]
    # bfloat16 has 8 bits of mantissa: the loss of 5 steps changes in the third digit. With float16 one of the five is
    # left out, until the scale of the loss has come down from 2^15: 2.7 % was measured.
    tolerance = {"bfloat16": 0.02, "float16": 0.06}[precision]
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert losses[1] != losses[0]


def test_float64_computes_everything_in_float64():
    trainer, plain = make_trainer(precision="float64", epochs=1), make_trainer(epochs=1)
    for network in (trainer.model.encoder, trainer.model.projection_head):
        assert {tf.as_dtype(layer.output.dtype).name for layer in network.layers[1:]} == {"float64"}
    momentums = [v for v in trainer.model.optimizer.variables if len(v.shape) > 0]
    assert len(momentums) == len(trainer.model.trainable_variables)
    assert {tf.as_dtype(v.dtype).name for v in (*network_weights(trainer.model), *momentums)} == {"float64"}
    assert trainer.model(tf.zeros([2, 16, 16, 3])).dtype == tf.float64
    assert tf.keras.backend.floatx() == "float32"
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    for a, b in zip(network_weights(plain.model), network_weights(trainer.model), strict=True):
        assert a.shape == b.shape
    record = Record()
    trainer.fit([record])
    assert np.isfinite(record.logs["epoch", 0]["loss"])


@pytest.mark.slow
def test_xla_trains_the_same_weights():
    # A ReLU that rounding switches changes a gradient for good: with AVX-512 one moved weights by 0.11 times the
    # learning rate.
    options = dict(epochs=1, learning_rate=0.001)
    compiled, plain = make_trainer(jit_compile="on", **options), make_trainer(**options)
    found, expected = Record(), Record()
    compiled.fit([found])
    plain.fit([expected])
    assert len(expected.logs) == len(found.logs) == STEPS + 1
    for name, value in expected.logs["epoch", 0].items():
        assert found.logs["epoch", 0][name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    for a, b in zip(network_weights(plain.model), network_weights(compiled.model), strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-4, atol=1e-4)


def test_xla_compiles_a_single_device_only(two_replicas):
    one = tf.distribute.get_strategy()
    assert uses_xla("on", one)
    assert not uses_xla("off", one)
    assert not uses_xla("auto", two_replicas)
    with pytest.raises(UsageError, match="auto and off. Received: on with 2 replicas"):
        uses_xla("on", two_replicas)


def test_auto_compiles_on_a_single_gpu_only(monkeypatch):
    strategy = tf.distribute.get_strategy()
    for count, expected in enumerate((False, True, False)):
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind, count=count: [kind] * count)
        assert uses_xla("auto", strategy) == expected


def test_float16_needs_one_replica():
    optimizer = tf.keras.optimizers.SGD()
    assert with_loss_scaling(optimizer, "bfloat16", 2) is optimizer
    with pytest.raises(UsageError, match="float32 and bfloat16. Received: float16 with 2"):
        with_loss_scaling(optimizer, "float16", 2)


@pytest.mark.skipif(compat.KERAS_3, reason="Keras 3 has a loss scaling that works here")
def test_float16_needs_keras_3():
    with pytest.raises(UsageError, match="needs Keras 3. Possible: float32 and bfloat16"):
        make_trainer(precision="float16")
