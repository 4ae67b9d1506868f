"""Models for LiteRT: they score like the library, with weights of every type."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import mcl_tf
from mcl_tf.errors import UsageError
from mcl_tf.evaluation import compute_metrics
from mcl_tf.export import litert
from tests.export.edge_helpers import IMAGES, assert_answers_of_the_library
from tests.helpers import CLASS_NAMES, DETECTOR_OPTIONS, SCORE_TOLERANCE, mixed_images, tinted_images

IS_GREEN = np.arange(30) % 3 == 2


def run(data, images):
    """Score images one by one; return {output: array [n]}."""
    score = litert.load(data)
    answers = [{name: value.copy() for name, value in score(images=image[None]).items()} for image in images]
    return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def test_scores_like_the_library(tiny_litert, tiny_detector):
    assert_answers_of_the_library(tiny_detector, IMAGES, run(tiny_litert.read_bytes(), IMAGES), SCORE_TOLERANCE)


def test_the_card_lies_in_the_file(tiny_litert, tiny_detector):
    card = litert.read_card(tiny_litert)
    assert (card["image_size"], card["classes"]) == (16, list(CLASS_NAMES))
    assert card["threshold"]["value"] == tiny_detector.threshold_
    assert card["export_precision"] == "float32"


def test_float16_takes_half_of_the_bytes(tiny_litert, tiny_detector, tmp_path):
    path = tiny_detector.export(tmp_path / "m.tflite", format="litert", precision="float16")
    # Seven eighths of this small file are weights, the rest is its graph.
    assert (tmp_path / "m.tflite").stat().st_size < 0.7 * tiny_litert.stat().st_size
    assert litert.read_card(path)["export_precision"] == "float16"
    # float16 has 11 bits, and rounding errors of the embeddings are divided by small standard deviations.
    answers = run((tmp_path / "m.tflite").read_bytes(), IMAGES)
    assert_answers_of_the_library(tiny_detector, IMAGES, answers, 0.05)


def test_int8_keeps_the_order_and_moves_the_threshold(tiny_litert, tiny_detector, tmp_path):
    normal = tinted_images(20, seed=5)[0]
    path = tiny_detector.export(tmp_path / "m.tflite", format="litert", precision="int8", images=normal)
    data = (tmp_path / "m.tflite").read_bytes()
    assert len(data) < 0.5 * tiny_litert.stat().st_size
    expected, found = tiny_detector.decision_function(IMAGES), run(data, IMAGES)
    areas = [compute_metrics(IS_GREEN, scores)["auroc"] for scores in (expected, found["score"])]
    assert areas[1] == pytest.approx(areas[0], abs=0.005)
    shift = np.median(run(data, normal)["score"] - tiny_detector.decision_function(normal))
    threshold = tiny_detector.threshold_ + shift
    assert litert.read_card(path)["threshold"]["value"] == pytest.approx(threshold, abs=SCORE_TOLERANCE)
    assert np.array_equal(found["is_anomaly"], found["score"] > threshold)


@pytest.mark.slow
def test_the_local_score_is_that_of_the_library(tmp_path):
    options = {**DETECTOR_OPTIONS, "score": "both", "image_size": 16, "detail_size": 24, "views": 2}
    detector = mcl_tf.AnomalyDetector(**options).fit(tinted_images(24, 24, 24)[0])
    images = mixed_images(9, 24, 24, 22)
    detector.export(tmp_path / "m.tflite", format="litert")
    # Pixels half-way between two grey levels may be rounded to the other one.
    answers = run((tmp_path / "m.tflite").read_bytes(), images)
    assert_answers_of_the_library(detector, images, answers, 0.02)


def test_names_an_operation_that_is_missing(stand_in, capfd):
    served = stand_in(lambda images: tf.raw_ops.Betainc(a=1.0, b=1.0, x=tf.cast(images[:, 0, 0, 0], tf.float32) / 255))
    with pytest.raises(UsageError, match="cannot be converted for LiteRT: LiteRT has no Betainc$"):
        litert.convert(served, "float32")
    assert "Betainc" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["nothing", "text", "no card", "another card"])
def test_refuses_a_file_that_is_no_export(kind, tmp_path):
    path = tmp_path / "m.tflite"
    if kind != "nothing":
        path.write_bytes(b"text" if kind != "another card" else litert.with_card(b"model", {"threshold": 1}))
    with pytest.raises(UsageError, match=r"m.tflite is not a LiteRT model of this library: .+"):
        litert.read_card(path)


WITHOUT_TENSORFLOW = """
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

score = Interpreter(sys.argv[1]).get_signature_runner()
np.save(sys.argv[2], [score(images=image[None])["score"][0] for image in np.load(sys.argv[3])])
assert "tensorflow" not in sys.modules
"""


def test_scores_without_tensorflow(tiny_litert, tiny_detector, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="The extra `litert` is not installed.")
    np.save(tmp_path / "images.npy", IMAGES)
    arguments = [tiny_litert, tmp_path / "scores.npy", tmp_path / "images.npy"]
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments], check=True, timeout=120)
    expected = pytest.approx(tiny_detector.decision_function(IMAGES), rel=SCORE_TOLERANCE, abs=SCORE_TOLERANCE)
    assert np.load(tmp_path / "scores.npy") == expected
