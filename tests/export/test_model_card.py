"""The model card: its contents, damaged cards, and the commit of the checkout."""

import datetime
import json
import pathlib
import shutil
import subprocess

import pytest
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.export import model_card
from mcl_tf.export.model_card import read_card
from mcl_tf.version import __version__
from tests.helpers import CLASS_NAMES, ROOT


def test_describes_the_model(tiny_export, tiny_detector):
    card = read_card(tiny_export / "saved_model" / "1")
    assert card["classes"] == list(CLASS_NAMES)
    assert card["labelled"] is True
    assert (card["encoder"], card["image_size"], card["views"], card["method"]) == ("small", 16, 8, "weighted")
    assert (card["embedding"], card["evidence"], card["score"], card["restarts"]) == ("stages", True, "image", 0)
    assert (card["loss"], card["rotations"], card["view_area"]) == ("masked", True, 1.0)
    assert card["export_precision"] == "float32"
    assert len(tiny_detector.calibration_scores_) < 19
    assert card["threshold"] == {
        "value": tiny_detector.threshold_,
        "set_by": model_card.set_by_quantile(0.95),
        "quantile": 0.95,
        "promised_rate": 1.0 / (len(tiny_detector.calibration_scores_) + 1),  # more than 0.05: they are fewer than 19
        "calibration_images": len(tiny_detector.calibration_scores_),
    }
    assert card["metrics"] == {"auroc": 0.5}
    assert card["versions"]["tensorflow"] == tf.__version__
    assert card["versions"]["mcl_tf"] == __version__
    assert datetime.datetime.fromisoformat(card["created"]).tzinfo is not None
    json.dumps(card, allow_nan=False)


@pytest.mark.parametrize(
    ("metrics", "dataset"), [(None, None), ({"auroc": 0.5}, "digits"), ({"dataset": "mnist"}, "mnist")]
)
def test_names_the_dataset_that_metrics_were_measured_on(metrics, dataset, tiny_detector):
    card = model_card.make_card(tiny_detector, "float32", metrics)
    assert (card["dataset"], card["metrics"]) == (dataset, metrics)


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "[]", "null", "{}", '{"image_size": "16", "threshold": {}}', '{"image_size": 16, "threshold": 1}'],
)
def test_refuses_what_is_not_a_card(text, tmp_path):
    if text is not None:
        (tmp_path / "assets.extra").mkdir()
        (tmp_path / "assets.extra" / "model_card.json").write_text(text)
    with pytest.raises(UsageError, match="model_card.json is not a model card as written by the export: ") as error:
        read_card(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_names_the_commit_of_its_own_checkout_only(tmp_path, monkeypatch):
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    process = subprocess.run(git, capture_output=True, text=True, check=False)
    if process.returncode == 0:
        assert model_card.commit() == process.stdout.strip()
    # An installed copy within the checkout of another project.
    package = tmp_path / "site-packages" / "mcl_tf"
    (package / "export").mkdir(parents=True)
    (package / "version.py").touch()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    monkeypatch.setattr(model_card, "__file__", str(package / "export" / "model_card.py"))
    assert pathlib.Path(model_card.__file__).parent.parent == package
    assert model_card.commit() is None
