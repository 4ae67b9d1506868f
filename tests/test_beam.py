"""The Beam transform on the DirectRunner: the scores of --mode=score, and the dead letters."""

import glob
import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("apache_beam", reason="needs the extra `beam`")

import mcl_tf
from mcl_tf.config import Config
from mcl_tf.file_scoring import score_files

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel and pictures of several sizes, two of them broken."""
    import test_saved_model as export
    from test_serving import encoded

    folder = tmp_path_factory.mktemp("beam")
    export_options = {**export.OPTIONS, "serving_batch_sizes": (1,)}
    detector = mcl_tf.AnomalyDetector(**export_options).fit(*export.tinted_pictures(24))
    detector.export(folder / "saved_model", new_version=True)
    (folder / "pictures").mkdir()
    for place in range(9):
        picture = export.mixed_pictures(1, 10 + place, 20, place)[0]
        (folder / "pictures" / f"{place}.png").write_bytes(encoded(picture))
    (folder / "pictures" / "cut.png").write_bytes(encoded(picture)[:60])
    (folder / "pictures" / "empty.png").write_bytes(b"")
    return folder


def lines(pattern):
    return {
        row["file"]: row
        for name in glob.glob(str(pattern))
        for row in map(json.loads, pathlib.Path(name).read_text().splitlines())
    }


def command(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = [sys.executable, "-m", "mcl_tf.beam", *arguments]
    return subprocess.run(done, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_two_workers_give_the_scores_of_mode_score(mode, folder, tmp_path):
    options = (f"--saved_model={folder / 'saved_model'}", f"--input={folder / 'pictures' / '*.png'}")
    workers = ("--runner=DirectRunner", "--direct_num_workers=2", f"--direct_running_mode={mode}")
    done = command(*options, f"--output={tmp_path / 'beam'}", *workers)
    assert done.returncode == 0, done.stderr[-3000:]
    output = tmp_path / "expected.jsonl"
    score_files(
        Config().replace(
            saved_model=str(folder / "saved_model"), images=str(folder / "pictures"), output=str(output)
        )
    )
    expected, found = lines(output), lines(tmp_path / "beam-0*.jsonl")
    assert set(found) == set(expected)
    assert len(found) == 9
    for name, row in expected.items():
        # Other batches, other kernels: scores are float32 and below 100.
        assert found[name]["score"] == pytest.approx(row["score"], abs=1e-4)
        assert {k: v for k, v in found[name].items() if k != "score"} == {
            k: v for k, v in row.items() if k != "score"
        }
    failed = lines(tmp_path / "beam-unreadable-*.jsonl")
    assert {os.path.basename(name): row["reason"].split(":")[0] for name, row in failed.items()} == {
        "cut.png": "is a PNG that cannot be decoded",
        "empty.png": "is empty",
    }


def test_a_glob_that_matches_nothing_is_one_line_and_code_2(tmp_path):
    done = command(f"--saved_model={tmp_path}", f"--input={tmp_path}/*.png", f"--output={tmp_path}/out")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(f"Received: {tmp_path}/*.png")
    assert "Traceback" not in done.stderr
