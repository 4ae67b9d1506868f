"""Another evaluation of a finished run: other options, the same network, nothing trained, the run as it was."""

import json

import numpy as np
import pytest

import mcl_tf
from mcl_tf import calibration, experiment, reevaluation
from mcl_tf.config import EVALUATED, Config
from mcl_tf.errors import UsageError
from mcl_tf.reevaluation import evaluate
from tests.helpers import DETECTOR_OPTIONS, make_once, read_files

CONFIG = Config().replace(**{**DETECTOR_OPTIONS, "epochs": 1}, normal=("1",), max_steps=2, image_size=16)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run on the digits, trained for two steps."""

    def run(folder):
        experiment.run(CONFIG.replace(run_dir=str(folder / "run")))

    return make_once(tmp_path_factory, "reevaluated", run) / "run"


@pytest.fixture
def no_training(monkeypatch):
    """Let every training step fail; nothing is exported, which takes seconds."""
    monkeypatch.setattr(mcl_tf.model.MaskedContrastiveModel, "train_step", lambda *_: 1 / 0)
    monkeypatch.setattr(mcl_tf.AnomalyDetector, "export", lambda *_, **__: "nowhere")


def scores_of(folder):
    return np.loadtxt(folder / "scores.csv", delimiter=",", skiprows=1, usecols=3, dtype=np.float32)


@pytest.mark.slow
def test_other_options_give_what_the_network_gives_with_them(run_dir, no_training):
    before = {name: data for name, data in read_files(run_dir).items() if not name.startswith("evaluations")}
    report = evaluate(run_dir, {"views": 4, "method": "min", "evidence": False, "pass_rate": 0.8})
    folder = run_dir / "evaluations" / "evidence=False+method=min+pass_rate=0.8+views=4"
    assert json.loads((folder / "metrics.json").read_text()) == report
    detector = mcl_tf.AnomalyDetector.load(folder)
    assert (detector.scorer_.view_count, detector.fitted_config_.scoring.method) == (4, "min")
    trained = mcl_tf.AnomalyDetector.load(run_dir)
    weights, theirs = detector.scorer_.network.get_weights(), trained.scorer_.network.get_weights()
    for a, b in zip(weights, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert detector.threshold_ == np.float32(calibration.threshold_at(detector.calibration_scores_, 0.8))
    assert {name: data for name, data in read_files(run_dir).items() if not name.startswith("evaluations")} == before


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "as trained"),
        ({"views": 4, "method": "min"}, "method=min+views=4"),
        ({"view_area": (1.0, 0.5)}, "view_area=1.0,0.5"),
        ({"anomaly_dataset": "blobs,/data/cut"}, "anomaly_dataset=blobs,%2Fdata%2Fcut"),
    ],
)
def test_the_folder_has_the_name_of_the_options_as_they_are_given(changed, name):
    assert reevaluation._name(changed) == name


@pytest.mark.slow
def test_the_options_of_the_run_give_its_scores(run_dir, no_training):
    evaluate(run_dir, {"views": CONFIG.scoring.views})
    np.testing.assert_array_equal(scores_of(run_dir / "evaluations" / "as trained"), scores_of(run_dir))


def test_options_of_a_training_are_refused(tmp_path):
    with pytest.raises(UsageError, match=f"can change {', '.join(EVALUATED)}. Received: epochs, seed"):
        evaluate(tmp_path, {"seed": 3, "epochs": 4, "views": 1})


def test_a_directory_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        evaluate(tmp_path, {})
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    with pytest.raises(UsageError, match="has no model yet. Finish it with its own command first"):
        evaluate(tmp_path, {})
