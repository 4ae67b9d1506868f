"""The examples run to their ends and find what they say; the notebook is stored without outputs."""

import json
import re
import runpy
import sys

import pytest

from tests.helpers import ROOT

EXAMPLES = ROOT / "examples"


def auroc(text):
    return float(re.search(r"AUROC (?:.* )?([01]\.\d+)", text)[1])


def code_cells():
    notebook = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs():
    assert code_cells()
    for cell in code_cells():
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile("".join(cell["source"]), "cell", "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names = {}
    for cell in code_cells():
        exec("".join(cell["source"]), names)
    assert auroc(capsys.readouterr().out) == pytest.approx(names["auroc"], abs=1e-3)
    assert names["auroc"] > 0.95
    assert (tmp_path / "detector").is_dir()


@pytest.mark.slow
def test_an_encoder_of_keras(capsys):
    runpy.run_path(str(EXAMPLES / "keras_encoder.py"), run_name="__main__")
    assert auroc(capsys.readouterr().out) > 0.9


@pytest.mark.slow
def test_a_folder(tmp_path, monkeypatch, library_log):
    monkeypatch.setattr(sys, "argv", ["folder.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "folder.py"), run_name="__main__")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["self_ensemble"]["auroc"] > 0.9
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 20
