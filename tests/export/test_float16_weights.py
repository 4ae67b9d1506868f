"""Weights in float16: half the bytes, almost the same scores."""

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from mcl_tf.config import ModelConfig
from mcl_tf.export.float16_weights import with_float16_weights
from mcl_tf.export.model_card import read_card
from mcl_tf.networks import build_encoder, build_projection_head
from tests.helpers import CLASS_NAMES, DETECTOR_OPTIONS, make_once, mixed_images, tinted_images


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A detector that scores the projection, so that encoder and head are exported, with float16 weights."""

    def train_and_export(folder):
        detector = mcl_tf.AnomalyDetector(**DETECTOR_OPTIONS, embedding="projection", export_precision="float16")
        detector.fit(*tinted_images(24), class_names=CLASS_NAMES)
        detector.save(folder / "detector")
        detector.export(folder / "saved_model")

    folder = make_once(tmp_path_factory, "float16", train_and_export)
    return mcl_tf.AnomalyDetector.load(folder / "detector"), folder / "saved_model"


def split_weights(network):
    """Return the weights of convolutions and dense layers, and those of batch normalization, which keep float32."""
    keep = {id(w) for layer in network.layers if hasattr(layer, "gamma") for w in layer.weights}
    return [w for w in network.weights if id(w) not in keep], [w for w in network.weights if id(w) in keep]


def count_bytes(weights):
    return sum(weight.numpy().nbytes for weight in weights)


@pytest.mark.slow
def test_halves_the_bytes_and_hardly_changes_scores(exported, run_cpp):
    detector, path = exported
    reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    stored = {dtype: [key for key in dtypes if dtypes[key] == dtype] for dtype in (tf.float16, tf.float32)}
    weights, kept = split_weights(detector.scorer_.network)
    assert len(stored[tf.float16]) == len(weights) > 0
    assert not detector.scorer_.is_scaled  # several classes: no units
    assert len(stored[tf.float32]) == len(kept) + 4  # means, whitenings, threshold, held-out scores
    assert sum(2 * np.prod(shapes[key], dtype=int) for key in stored[tf.float16]) == count_bytes(weights) / 2
    assert read_card(path)["export_precision"] == "float16"
    images = mixed_images(6, 20, 20, 4)
    found, process = run_cpp(path, images)
    assert process.returncode == 0, process.stderr
    # float16 keeps eleven bits, 5e-4 of a weight; ten layers and the whitening turn it into some thousandths.
    # Scores near 0 change by thousandths of the spread over normal images, which is 1.
    np.testing.assert_allclose(found["score"], detector.decision_function(images), rtol=2e-2, atol=2e-2)


def test_halves_the_default_network():
    """Batch normalization, which keeps float32, holds two thousandths of the weights."""
    config = ModelConfig()
    encoder = build_encoder(config, 32)
    head = build_projection_head(config, encoder.output_shape[-1])
    network = tf.keras.Model(encoder.inputs[0], head(encoder.outputs[0]))
    copy = with_float16_weights(network)
    assert count_bytes(copy.weights) < 0.502 * count_bytes(network.weights)
    assert [weight.shape for weight in copy.weights] == [weight.shape for weight in network.weights]


def test_computes_in_float32(tiny_detector):
    network = tiny_detector.scorer_.network
    before = network.get_weights()
    images = mixed_images(4, 16, 16, 0) / np.float32(255)
    outputs = with_float16_weights(network)(images)
    assert outputs.dtype == tf.float32
    np.testing.assert_allclose(outputs, network(images), rtol=2e-2, atol=2e-3)
    for weight, value in zip(network.get_weights(), before, strict=True):  # the original is not changed
        np.testing.assert_array_equal(weight, value)
        assert weight.dtype == np.float32
