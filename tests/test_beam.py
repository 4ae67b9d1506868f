"""The Beam transform on the DirectRunner: the rows of `score_files`, and the images that cannot be scored."""

import glob
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("apache_beam", reason="needs the extra `beam`")

import mcl_tf
from tests.helpers import ROOT, SCORE_TOLERANCE, encode, mixed_images


@pytest.fixture(scope="module")
def image_files(tmp_path_factory):
    """A folder of 9 images of several sizes and 2 files that cannot be decoded."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(9):
        image = mixed_images(1, 10 + index, 20, index)[0]
        (folder / f"{index}.png").write_bytes(encode(image))
    (folder / "cut.png").write_bytes(encode(image)[:60])
    (folder / "empty.png").write_bytes(b"")
    return folder


def read_rows(pattern):
    """Return {file: row} of all JSON lines in the files of a glob."""
    return {
        row["file"]: row
        for name in glob.glob(str(pattern))
        for row in map(json.loads, pathlib.Path(name).read_text().splitlines())
    }


def run_beam(*arguments):
    """Run the command line of the transform and return the finished process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mcl_tf.beam", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_two_workers_write_the_rows_of_score_files(mode, tiny_export, image_files, tmp_path):
    saved_model = tiny_export / "saved_model"
    options = (f"--saved_model={saved_model}", f"--input={image_files / '*.png'}")
    workers = ("--runner=DirectRunner", "--direct_num_workers=2", f"--direct_running_mode={mode}")
    process = run_beam(*options, f"--output={tmp_path / 'beam'}", *workers)
    assert process.returncode == 0, process.stderr[-3000:]
    again = run_beam(*options, f"--output={tmp_path / 'beam'}", *workers)
    assert again.returncode == 2
    assert re.search(r"without scores. Received: .*/beam-.*\.jsonl exists$", again.stderr.strip())
    output = tmp_path / "expected.jsonl"
    mcl_tf.score_files(saved_model, image_files, output)
    expected, found = read_rows(output), read_rows(tmp_path / "beam-0*.jsonl")
    assert set(found) == set(expected)
    assert len(found) == 9
    for name, row in expected.items():
        # Other batches use other kernels. Scores are float32 and below 100.
        assert found[name].pop("score") == pytest.approx(row.pop("score"), abs=SCORE_TOLERANCE)
        assert found[name] == {column: row[column] for column in found[name]}
        assert set(row) - set(found[name]) == {"image_state", "model"}  # for resuming
    failed = read_rows(tmp_path / "beam-unreadable-*.jsonl")
    assert {os.path.basename(name): row["reason"].split(":")[0] for name, row in failed.items()} == {
        "cut.png": "is a PNG that cannot be decoded",
        "empty.png": "is empty",
    }


def test_refuses_a_glob_that_matches_nothing_in_one_line(tmp_path):
    process = run_beam(f"--saved_model={tmp_path}", f"--input={tmp_path}/*.png", f"--output={tmp_path}/out")
    assert process.returncode == 2
    assert process.stderr.strip().splitlines()[-1].endswith(f"Received: {tmp_path}/*.png")
    assert "Traceback" not in process.stderr
