"""The formats of an export: which arguments go with which."""

import importlib.util

import pytest

import mcl_tf
from mcl_tf.config import EXPORTS, Config
from mcl_tf.errors import UsageError
from mcl_tf.export import formats
from tests.helpers import DETECTOR_OPTIONS, tinted_images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tf"}, "format must be saved_model, litert or onnx. Received: 'tf'"),
        ({"format": "onnx", "precision": "int8"}, "precision of onnx must be float32. Received: 'int8'"),
        ({"precision": "int8"}, "precision of saved_model must be float32 or float16. Received: 'int8'"),
        ({"format": "litert", "new_version": True}, "new_version needs the format saved_model. Received: litert"),
        ({"format": "litert", "images": tinted_images(2)[0]}, "images need the precision int8. Received: litert with"),
        ({"format": "litert"}, "must end in .tflite. Received: "),
        (
            {"format": "litert", "precision": "int8", "images": tinted_images(2)[0][:0]},
            "images must hold at least one image. Received: none",
        ),
    ],
)
def test_refuses_wrong_arguments(options, message, tiny_detector, tmp_path):
    name = "model.tflite" if "images" in options else "model"
    with pytest.raises(UsageError, match=message):
        tiny_detector.export(tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_int8_is_refused_with_a_local_score(tmp_path):
    detector = mcl_tf.AnomalyDetector(**DETECTOR_OPTIONS, score="local", detail_size=16)
    detector.fit(tinted_images(24)[0])
    with pytest.raises(UsageError, match="int8 needs the score image, .* Received: score local$"):
        detector.export(tmp_path / "m.tflite", format="litert", precision="int8")


def test_int8_is_refused_with_a_local_score_before_a_training():
    config = Config().replace(score="both", litert_precision="int8")
    formats.check(config)  # nothing is exported with it
    with pytest.raises(UsageError, match="int8 needs the score image, .* Received: score both$"):
        formats.check(config.replace(export=("litert",)))


def test_a_missing_extra_is_named_before_a_training(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mcl_tf\[onnx\]'"):
        formats.check(Config().replace(export=("onnx",)))


def test_every_format_has_a_name_and_precisions():
    assert set(formats.NAMES) == set(formats.PRECISIONS) == set(EXPORTS)
