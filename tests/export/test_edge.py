"""What the files for other devices have in common: the graph of a score, and which files are replaced."""

import os

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import views
from mcl_tf.errors import UsageError
from mcl_tf.export import edge, litert
from tests.helpers import tinted_images

CARD = {"image_size": 16, "threshold": {}}


def mean_level(images):
    return tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3])


def test_answers_follow_from_score_threshold_and_held_out_scores(stand_in):
    images = np.zeros((4, 4, 4, 3), np.uint8) + np.array([0, 1, 2, 3], np.uint8)[:, None, None, None]
    answers = edge.scoring_function(stand_in(mean_level, threshold=1.0, held_out=(0.0, 1.0, 1.0, 2.5)))(images)
    assert tuple(sorted(answers)) == tuple(sorted(edge.OUTPUTS))
    assert answers["score"].numpy().tolist() == [0.0, 1.0, 2.0, 3.0]
    assert answers["is_anomaly"].numpy().tolist() == [False, False, True, True]
    # 4, 3, 1 and 0 of the held-out scores are at least as high.
    assert answers["p_value"].numpy() == pytest.approx([5 / 5, 4 / 5, 2 / 5, 1 / 5])


def test_an_image_without_a_score_counts_as_an_anomaly(stand_in):
    score = edge.scoring_function(stand_in(lambda images: mean_level(images) / 0.0))
    assert score(np.zeros((1, 4, 4, 3), np.uint8))["is_anomaly"].numpy().tolist() == [True]


@pytest.mark.parametrize(("side", "size"), [(96, 32), (20, 16), (16, 24), (17, 17)])
def test_resizes_like_the_library(side, size):
    images = tinted_images(4, side, side)[0]
    found = edge.resize_by_products(tf.constant(images), size).numpy().astype(int)
    difference = np.abs(found - views.prepare(images, size).numpy())
    assert difference.max() <= 1
    # Only a pixel half-way between two levels may differ. From 16 to 24, weights are sixths, and halves not rare.
    assert difference.mean() < 5e-3


def make_model(path, text="model"):
    path.write_bytes(litert.with_card(text.encode(), CARD))
    return path


def test_a_target_may_be_absent_or_an_older_export(tmp_path):
    for path in (tmp_path / "not" / "there" / "m.tflite", make_model(tmp_path / "m.tflite")):
        assert edge.check_target(path, ".tflite", litert.read_card) == path
    assert os.listdir(tmp_path) == ["m.tflite"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("m.lite", r"must end in \.tflite. Received: "),
        ("folder.tflite", "is a file. Received: .*, which is a folder"),
        ("foreign.tflite", "foreign.tflite exists, and no export has written it"),
        ("foreign.tflite/m.tflite", "cannot be written: Not a directory"),
    ],
)
def test_refuses_other_targets(kind, message, tmp_path):
    (tmp_path / "folder.tflite").mkdir()
    (tmp_path / "foreign.tflite").write_text("mine")
    with pytest.raises(UsageError, match=message) as error:
        edge.check_target(tmp_path / kind, ".tflite", litert.read_card)
    assert "\n" not in str(error.value)
    assert (tmp_path / "foreign.tflite").read_text() == "mine"


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = make_model(tmp_path / "m.tflite")
    before = path.read_bytes()

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UsageError, match=r"m.tflite cannot be written: No space left on device$"):
        edge.write_file(path, b"new")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.tflite"]
