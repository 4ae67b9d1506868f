"""Warm-up requests for TensorFlow Serving, with and without its message classes."""

import sys

import pytest
import tensorflow as tf

from mcl_tf.export.model_card import EXTRA
from mcl_tf.export.saved_model import export_saved_model
from mcl_tf.export.warmup_requests import FILE, write_warmup


def test_requests_pass_through_their_signatures(tiny_export):
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    path = tiny_export / "saved_model" / "1"
    signatures = tf.saved_model.load(str(path)).signatures
    found = []
    for record in tf.data.TFRecordDataset(str(path / EXTRA / FILE)).as_numpy_iterator():
        request = prediction_log.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        answer = signatures[request.model_spec.signature_name](**inputs)
        found.append((request.model_spec.signature_name, len(answer["score"])))
    assert sorted(found) == sorted((name, n) for n in (1, 8, 32) for name in ("serving_default", "serving_bytes"))


@pytest.fixture
def without_serving(monkeypatch):
    """Makes the import of tensorflow-serving-api fail."""
    monkeypatch.setitem(sys.modules, "tensorflow_serving", None)
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)


def test_writes_nothing_without_the_extra(without_serving, tmp_path):
    assert write_warmup(tmp_path, 16, (1,)) is False
    assert list(tmp_path.iterdir()) == []


def test_export_logs_that_the_extra_is_missing(without_serving, empty_served, tmp_path, library_log):
    export_saved_model(empty_served, tmp_path / "1", batch_sizes=(1,))
    assert not (tmp_path / "1" / EXTRA / FILE).exists()
    assert "extra `serving`" in library_log.text


def test_export_without_batch_sizes_logs_nothing(without_serving, empty_served, tmp_path, library_log):
    export_saved_model(empty_served, tmp_path / "1")
    assert library_log.text == ""
