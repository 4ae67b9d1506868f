"""The file of scores: names and scores are read back, half a row is left out, other models are refused."""

import csv
import itertools
import json
import os

import numpy as np
import pytest

from mcl_tf.data.paths import file_state
from mcl_tf.errors import UsageError
from mcl_tf.score_file import COLUMNS, SCORES, ScoreFile, model_of
from tests.helpers import Killed, fail_at, visible_names

FILE_NAMES = ["scores.csv", "scores.jsonl", "scores.JSONL"]
MODEL = "m0123456789abcdef"


def open_file(path, resume=False, model=MODEL):
    return ScoreFile(path, model, resume)


def make_row(name, score=1.5, state="9 bytes of 1"):
    values = (name, score, True, 0.25, 1, "a, b")
    return {**dict(zip(SCORES, values, strict=True)), "place": "", "image_state": state}


def read_rows(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(map(json.loads, file)) if path.suffix != ".csv" else list(csv.DictReader(file))


@pytest.mark.parametrize("file_name", FILE_NAMES)
@pytest.mark.parametrize(
    "name",
    [
        "a.png",
        'a, "b".png',
        '"',
        "ü.png",
        "\udcff.png",
        *(f"a{c}b.png" for c in "\n\r\t\x0b\x0c\x1c\x85\u2028\u2029"),
        "\r\n",
    ],
)
def test_reads_back_the_names_of_an_earlier_start(name, file_name, tmp_path):
    with open_file(tmp_path / file_name) as file:
        file.write([make_row(name), make_row("last.png")])
    written = (tmp_path / file_name).read_bytes()
    with open_file(tmp_path / file_name, resume=True) as file:
        assert file.scored == {name, "last.png"}
    assert (tmp_path / file_name).read_bytes() == written
    assert [row["file"] for row in read_rows(tmp_path / file_name)] == [name, "last.png"]
    # Cut off anywhere in the first row.
    end = written.index(b"last.png") - 1
    for length in (end - 9, end - 1):
        (tmp_path / file_name).write_bytes(written[:length])
        with open_file(tmp_path / file_name, resume=True) as file:
            assert file.scored <= {name}


@pytest.mark.parametrize("file_name", FILE_NAMES)
def test_reads_back_exact_scores(file_name, tmp_path, rng):
    scores = rng.lognormal(0, 9, 50).astype(np.float32)
    with open_file(tmp_path / file_name) as file:
        file.write([make_row(f"{index}.png", float(score)) for index, score in enumerate(scores)])
    found = [np.float32(row["score"]) for row in read_rows(tmp_path / file_name)]
    np.testing.assert_array_equal(found, scores)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=["error", "kill"])
@pytest.mark.parametrize("file_name", FILE_NAMES)
def test_keeps_the_old_file_whatever_step_fails(file_name, error, tmp_path, monkeypatch):
    path = tmp_path / file_name
    with open_file(path) as file:
        file.write([make_row("a.png"), make_row("b.png")])
    complete = path.read_bytes()
    old = complete + complete.splitlines(keepends=True)[-1][:9]  # interrupted within its third row
    found = []
    for step in itertools.count():
        path.write_bytes(old)
        failure = None
        with fail_at(monkeypatch, step, error) as fault:
            try:
                with open_file(path, resume=True) as file:
                    assert file.scored == {"a.png", "b.png"}
            except UsageError as caught:
                failure = str(caught)
        if failure is not None:
            assert "cannot be written: No space left on device" in failure
        found.append(path.read_bytes())
        assert visible_names(tmp_path) == [file_name]
        if not fault.reached:
            break
    assert step > 3
    # Until the new file is renamed, the old one stays as it was.
    renamed = found.index(complete)
    assert renamed > 1
    assert found == [old] * renamed + [complete] * (len(found) - renamed)
    assert not list(tmp_path.glob(".*")) or isinstance(error, Killed)


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("scores.csv", "file,score\na.png,1\n"),
        ("scores.csv", ",".join(COLUMNS) + "\na.png,1\n"),
        ("scores.csv", ",".join(COLUMNS) + "\na.png,1,1,1,0,c,p,s,m,more\n"),
        ("scores.csv", "a secret without a line end"),
        ("scores.csv", ",".join(COLUMNS) + ",more"),
        ("scores.jsonl", "a.png\n"),
        ("scores.jsonl", '{"password": "a.png"}'),
        ("scores.jsonl", '{"file": "a.png"}\n'),
        ("scores.jsonl", "[]\n"),
    ],
)
def test_refuses_to_resume_what_is_not_a_file_of_scores(file_name, text, tmp_path):
    (tmp_path / file_name).write_text(text)
    with pytest.raises(UsageError, match="is not a file of scores|has a row that is not a score") as error:
        open_file(tmp_path / file_name, resume=True)
    assert "\n" not in str(error.value)
    assert (tmp_path / file_name).read_text() == text


@pytest.mark.parametrize(
    ("file_name", "text"),
    [
        ("scores.csv", ""),
        ("scores.csv", "fi"),
        ("scores.csv", ",".join(COLUMNS)),
        ("scores.jsonl", ""),
        ("scores.jsonl", '{"fi'),
        ("scores.jsonl", '{"file": "b.png", "sco'),
    ],
)
def test_resumes_a_start_without_a_complete_row(file_name, text, tmp_path):
    (tmp_path / file_name).write_text(text)
    with open_file(tmp_path / file_name, resume=True) as file:
        assert file.scored == set()
        file.write([make_row("a.png")])
    assert [row["file"] for row in read_rows(tmp_path / file_name)] == ["a.png"]


# Models and images.


@pytest.mark.parametrize("file_name", FILE_NAMES)
def test_the_scores_of_another_model_are_refused(file_name, tmp_path):
    with open_file(tmp_path / file_name) as file:
        file.write([make_row("a.png")])
    before = (tmp_path / file_name).read_bytes()
    with pytest.raises(UsageError, match=f"has scores of another model.* Received: m1, not {MODEL}$"):
        open_file(tmp_path / file_name, resume=True, model="m1")
    assert (tmp_path / file_name).read_bytes() == before
    assert read_rows(tmp_path / file_name)[0]["model"] == MODEL


def write_at(path, data, nanoseconds):
    path.write_bytes(data)
    os.utime(path, ns=(nanoseconds, nanoseconds))
    return path


@pytest.mark.parametrize(("data", "nanoseconds"), [(b"1234", 10**18), (b"123", 10**18 + 1000)])
def test_a_row_is_current_while_its_image_is(data, nanoseconds, tmp_path):
    image = write_at(tmp_path / "a.png", b"123", 10**18)
    rows = [make_row(name, state=file_state(name)) for name in (str(image), str(tmp_path / "gone.png"))]
    with open_file(tmp_path / "scores.csv") as file:
        file.write(rows)
    for replaced in (False, True):
        if replaced:
            write_at(image, data, nanoseconds)
        found = open_file(tmp_path / "scores.csv", resume=True).scored
        assert found == {row["file"] for row in rows[replaced:]}


@pytest.mark.parametrize("file_name", FILE_NAMES)
def test_sorts_rows_by_a_list_of_names(file_name, tmp_path):
    path = tmp_path / file_name
    file = open_file(path)
    with file:
        file.write([make_row(name, score) for score, name in enumerate(("c", "x", "a", "b", "a"))])
    file.sort(["a", "b", "c"])
    assert [(row["file"], float(row["score"])) for row in read_rows(path)] == [("x", 1), ("a", 4), ("b", 3), ("c", 0)]
    before = path.stat().st_ino
    file.sort(["a", "b", "c"])
    assert path.stat().st_ino == before


def test_is_only_read_until_it_is_entered(tmp_path):
    path = tmp_path / "scores.csv"
    first, second = open_file(path), open_file(path)
    assert not path.exists()
    with first:
        first.write([make_row("a.png")])
    with pytest.raises(UsageError, match="exists"), second:
        pass
    assert len(read_rows(path)) == 1


def test_the_fingerprint_of_a_model_is_that_of_its_graph_and_variables(tmp_path):
    (tmp_path / "variables").mkdir()
    files = [tmp_path / name for name in ("saved_model.pb", "variables/variables.index", "variables/variables.data-0")]
    for file in files:
        file.write_bytes(b"1")
    found = [model_of(tmp_path)]
    (tmp_path / "other").touch()
    assert model_of(tmp_path) == found[0]
    for file in files:
        file.write_bytes(b"2")
        found.append(model_of(tmp_path))
    assert len(set(found)) == 4
    files[0].unlink()
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        model_of(tmp_path)
