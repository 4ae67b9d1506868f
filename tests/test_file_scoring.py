"""`--mode=score`: every file scored once, the unreadable ones named, a stopped start gone on with."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import test_saved_model as export
from test_main import ROOT, refused, run
from test_signatures import encoded

import mcl_tf
from mcl_tf import file_scoring
from mcl_tf.config import Config
from mcl_tf.errors import UsageError

COUNT = 11


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel, pictures of several sizes under names that need quotes, and the library's scores by name."""
    folder = tmp_path_factory.mktemp("files")
    detector = mcl_tf.AnomalyDetector(**export.OPTIONS, serving_batch_sizes=(1,))
    detector.fit(*export.tinted_pictures(24), class_names=["a, b", "c"])
    detector.export(folder / "saved_model", new_version=True)
    (folder / "pictures" / "deep er").mkdir(parents=True)
    scores = {}
    for place in range(COUNT):
        picture = export.mixed_pictures(1, 10 + place, 20, place)
        name = folder / "pictures" / ("deep er" if place % 2 else "") / f'{place}, "x".png'
        name.write_bytes(encoded(picture[0]))
        scores[str(name)] = detector.decision_function(picture)[0]
    (folder / "pictures" / "cut.png").write_bytes(encoded(picture[0])[:60])
    (folder / "pictures" / "gone.png").symlink_to(folder / "nowhere")
    (folder / "pictures" / ".hidden").write_bytes(b"")
    os.mkfifo(folder / "pictures" / "pipe.png")  # would be waited for
    return folder, scores


def score(folder, output, **options):
    config = {
        "saved_model": str(folder / "saved_model"),
        "images": str(folder / "pictures"),
        "output": str(output),
    }
    return file_scoring.score_files(Config().replace(**{**config, "scoring_batch_size": 4, **options}))


def read(path):
    with open(path, newline="") as file:
        return list(map(json.loads, file)) if str(path).endswith(".jsonl") else list(csv.DictReader(file))


def check(path, scores):
    rows = read(path)
    assert [row["file"] for row in rows] == sorted(scores)
    found = [float(row["score"]) for row in rows]
    # Float32 scores below 100, of other batches.
    np.testing.assert_allclose(found, [scores[row["file"]] for row in rows], rtol=0, atol=1e-4)
    assert {row["class_name"] for row in rows} <= {"a, b", "c"}
    assert set(rows[0]) == set(file_scoring.COLUMNS)


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_every_file_is_scored_and_the_unreadable_ones_are_named(name, folder, tmp_path, capsys):
    folder, scores = folder
    assert score(folder, tmp_path / name) == COUNT
    check(tmp_path / name, scores)
    said = capsys.readouterr().out
    assert f"{COUNT} files scored" in said
    for name, reason in (
        ("cut.png", "is a PNG that cannot be decoded"),
        ("gone.png", "cannot be read: No such file or directory"),
        ("pipe.png", "is no regular file"),
    ):
        assert f"{name} {reason}" in said
    assert ".hidden" not in said


@pytest.mark.parametrize("name", ["scores.csv", "scores.jsonl"])
def test_a_stopped_start_goes_on_and_scores_no_file_twice(name, folder, tmp_path, monkeypatch):
    folder, scores = folder
    path = tmp_path / name
    real, calls = file_scoring.score_batch, []

    def stop(scorer, images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(images))
        return real(scorer, images)

    monkeypatch.setattr(file_scoring, "score_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        score(folder, path)
    assert 0 < len(read(path)) == sum(calls) < COUNT  # written as they came
    path.write_bytes(path.read_bytes()[:-7])  # the last row half written
    rest = []
    monkeypatch.setattr(file_scoring, "score_batch", lambda scorer, x: (rest.append(len(x)), real(scorer, x))[1])
    assert score(folder, path, resume=True) == COUNT - sum(calls) + 1 == sum(rest)
    check(path, scores)


def test_an_output_that_is_there_is_kept(folder, tmp_path):
    folder, _ = folder
    path = tmp_path / "scores.csv"
    path.write_text("mine\n")
    for options, message in (({}, "is there: --resume"), ({"resume": True}, "is no file of scores")):
        with pytest.raises(UsageError, match=message):
            score(folder, path, **options)
    assert path.read_text() == "mine\n"


def test_names_that_are_not_utf8_are_scored(folder, tmp_path):
    folder, _ = folder
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:
        file.write(encoded(export.mixed_pictures(1, 9, 9, 0)[0]))
    output = tmp_path / "out" / "scores.csv"
    output.parent.mkdir()
    score(folder, output, images=str(tmp_path / "*.png"))
    assert b"\xff.png" in output.read_bytes()
    with pytest.raises(UsageError, match="that can be read"):
        score(folder, tmp_path / "again.csv", images=str(folder / "pictures" / "cut.png"))


@pytest.mark.slow
def test_the_command_line_works_without_what_trains(folder, tmp_path):
    folder, scores = folder
    options = [f"--saved_model={folder / 'saved_model'}", f"--images={folder / 'pictures'}"]
    options += ["--mode=score", f"--output={tmp_path / 'scores.csv'}"]
    code = (
        "import sys, main; code = main.main(sys.argv); assert 'mcl_tf.training' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path / "scores.csv", scores)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Received: no --saved_model"),
        (("--saved_model=nowhere", "--images=x", "--output=y.csv"), "Received: nowhere"),
        (("--saved_model={0}/saved_model", "--images={0}/*.bmp", "--output=y.csv"), "Received: {0}/*.bmp"),
        (("--saved_model={0}/saved_model", "--images={0}/pictures", "--output={0}/no/y.csv"), "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_code_2(options, message, folder):
    line = refused(run("--mode=score", *(option.format(folder[0]) for option in options)))
    assert message.format(folder[0]) in line
