"""Options of a run for HParams, and the step of its result."""

import json

import numpy as np
import pytest

from mcl_tf.config import Config
from mcl_tf.summaries import result
from tests.summaries.events import read_curves


def test_options_that_matter_or_differ_are_shown():
    config = Config().replace(dataset="cifar10", normal=("3", "5"), ema=0.5, run_dir="x", shrinkage=0.5, detail_size=16)
    shown = result.settings(config)
    assert shown.pop("learning_rate") == config.in_force()["learning_rate"]
    assert shown == {
        **{"dataset": "cifar10", "normal": "3,5", "seed": 0, "image_size": 0, "encoder": "resnet18", "epochs": 400},
        **{"batch_size": 128, "temperature": 0.2, "embedding": "stages", "views": 8, "method": "weighted"},
        **{"score": "image", "ema": 0.5, "shrinkage": "0.5"},
    }
    assert result.settings(config.replace(score="local"))["detail_size"] == 16


def test_every_option_has_a_type_that_a_column_can_have():
    from config_fields import FIELDS, other_value

    for value in result.settings(Config().replace(**{name: other_value(name) for name in FIELDS})).values():
        assert isinstance(value, (bool, int, float, str))


@pytest.mark.parametrize(("area", "text"), [(0.5, "0.5"), ((1.0, 0.5), "1.0,0.5")])
def test_one_area_is_text_as_several_are(area, text):
    assert result.settings(Config().replace(view_area=area))["view_area"] == text


@pytest.mark.parametrize(
    ("steps", "expected"), [({}, 0), ({"checkpoints": 9}, 9), ({"checkpoints": 9, "checkpoints-restart": 4}, 4)]
)
def test_the_step_of_a_result_is_that_of_its_training(steps, expected, tmp_path):
    for name, step in steps.items():
        folder = tmp_path / name / f"step-{step:09d}"
        folder.mkdir(parents=True)
        (folder / "metadata.json").write_text(json.dumps({"step": step}))
    assert result.trained_steps(str(tmp_path)) == expected


@pytest.mark.slow  # for the two runs
def test_the_result_stands_at_the_last_step(table):
    steps = {seed: read_curves(table / "tinted" / f"seed-{seed}" / "result")["quality/auroc_sei"] for seed in (0, 1)}
    assert [step for step, _ in steps[0] + steps[1]] == [2, 0]
    within = read_curves(table / "tinted" / "seed-0" / "evaluation")["quality/auroc_sei"]
    assert [step for step, _ in within] == [2]
    assert [step for step, _ in read_curves(table / "tinted" / "seed-0" / "train")["loss/total"]] == [1, 2]


def test_a_failure_is_a_warning(tiny_detector, tmp_path, library_log, monkeypatch):
    def fail(*arguments):
        raise ValueError("of a\npackage")

    monkeypatch.setattr(result, "write_embeddings", fail)
    from tests.summaries.test_projector import make_scores

    scores = make_scores(6)
    result.write_result(tiny_detector, None, scores, {"at_threshold": {"normals_flagged": 0.5}}, tmp_path / "result")
    assert library_log.messages == [f"{tmp_path / 'result'} is incomplete: of a package"]
    assert read_curves(tmp_path / "result")["threshold/normals_flagged"] == [(0, 0.5)]
    assert np.isfinite(read_curves(tmp_path / "result")["quality/auroc_sei"][0][1])
