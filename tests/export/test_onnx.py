"""Models for ONNX Runtime: they score batches like the library."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from mcl_tf.errors import UsageError
from mcl_tf.export import onnx
from tests.export.edge_helpers import IMAGES, assert_answers_of_the_library
from tests.helpers import CLASS_NAMES, DETECTOR_OPTIONS, SCORE_TOLERANCE, mixed_images, tinted_images

CARD = {"image_size": 4, "threshold": {}}
needs_onnx = pytest.mark.skipif(importlib.util.find_spec("tf2onnx") is None, reason="The extra `onnx` is missing.")


def run(model, images):
    """Return {output: array} of a file, or of its contents."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model if isinstance(model, bytes) else str(model))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.mark.parametrize("count", [1, 30])
def test_scores_like_the_library(count, tiny_onnx, tiny_detector):
    images = IMAGES[-count:]
    assert_answers_of_the_library(tiny_detector, images, run(tiny_onnx, images), SCORE_TOLERANCE)


def test_input_is_a_batch_of_any_size(tiny_onnx):
    runtime = pytest.importorskip("onnxruntime")
    (images,) = runtime.InferenceSession(str(tiny_onnx)).get_inputs()
    assert (images.name, images.shape, images.type) == ("images", ["n", 16, 16, 3], "tensor(uint8)")


def test_the_card_lies_in_the_file(tiny_onnx, tiny_detector):
    card = onnx.read_card(tiny_onnx)
    assert (card["image_size"], card["classes"]) == (16, list(CLASS_NAMES))
    assert card["threshold"]["value"] == tiny_detector.threshold_


@pytest.mark.slow
@needs_onnx
def test_the_local_score_is_that_of_the_library(tmp_path):
    options = {**DETECTOR_OPTIONS, "score": "both", "image_size": 16, "detail_size": 24, "views": 2}
    detector = mcl_tf.AnomalyDetector(**options).fit(tinted_images(24, 24, 24)[0])
    images = mixed_images(9, 24, 24, 22)
    path = detector.export(tmp_path / "m.onnx", format="onnx")
    assert_answers_of_the_library(detector, images, run(path, images), 0.02)


@needs_onnx
def test_gelu_is_that_of_tensorflow(stand_in):
    def score(images):
        return tf.nn.gelu(tf.cast(images[:, 0, 0, 0], tf.float32) / 64.0 - 2.0)

    images = np.zeros((5, 4, 4, 3), np.uint8) + np.array([0, 50, 128, 200, 255], np.uint8)[:, None, None, None]
    assert run(onnx.convert(stand_in(score), CARD), images)["score"] == pytest.approx(score(images).numpy(), abs=1e-6)


@needs_onnx
def test_names_an_operation_that_is_missing(stand_in):
    served = stand_in(lambda images: tf.raw_ops.Betainc(a=1.0, b=1.0, x=tf.cast(images[:, 0, 0, 0], tf.float32) / 255))
    with pytest.raises(UsageError, match="cannot be converted for ONNX: .*Betainc") as error:
        onnx.convert(served, CARD)
    assert "\n" not in str(error.value)


@needs_onnx
@pytest.mark.parametrize("content", [None, b"", b"text"])
def test_refuses_a_file_that_is_no_export(content, tmp_path):
    if content is not None:
        (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UsageError, match=r"m.onnx is not an ONNX model of this library: .+"):
        onnx.read_card(tmp_path / "m.onnx")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs tf2onnx: pip install 'mcl_tf\[onnx\]'$"):
        onnx.check_installed()
