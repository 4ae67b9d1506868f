"""Image files are scored with the files for other devices as with the SavedModel."""

import csv

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from mcl_tf.errors import UsageError
from mcl_tf.export import litert, runtimes
from mcl_tf.score_file import model_of
from tests.helpers import CLASS_NAMES, SCORE_TOLERANCE, encode, mixed_images


@pytest.mark.parametrize("model", ["tiny_litert", "tiny_onnx"])
def test_scores_files_like_the_library(model, request, tiny_detector, tmp_path):
    images = mixed_images(5, 20, 18, 31)
    (tmp_path / "images").mkdir()
    for index, image in enumerate(images):
        (tmp_path / "images" / f"{index}.png").write_bytes(encode(image))
    model, output = request.getfixturevalue(model), tmp_path / "scores.csv"
    assert mcl_tf.score_files(model, tmp_path / "images", output, batch_size=2) == 5
    with output.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = tiny_detector.scorer_.evaluate_images(images)
    scores = [float(row["score"]) for row in rows]
    assert scores == pytest.approx(expected["score"], rel=SCORE_TOLERANCE, abs=SCORE_TOLERANCE)
    assert [row["class_name"] for row in rows] == [CLASS_NAMES[i] for i in expected["nearest_class"]]
    assert {row["model"] for row in rows} == {model_of(model)}


def test_a_score_that_is_not_finite_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(litert.with_card(b"model", {"image_size": 4, "threshold": {}, "classes": ["a"]}))
    answer = {"score": np.array([np.nan], np.float32), "nearest_class": np.zeros(1, np.int32)}
    monkeypatch.setattr(litert, "load", lambda data: lambda images: answer)
    with pytest.raises(UsageError, match="no finite score"):
        runtimes.load(path)(tf.zeros((1, 4, 4, 3), tf.uint8))
