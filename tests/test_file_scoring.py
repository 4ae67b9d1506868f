"""Scoring of image files: every file once, unreadable ones named, resumable; and thresholds chosen from examples."""

import csv
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

import main
import mcl_tf
from mcl_tf import calibration, file_scoring
from mcl_tf.errors import UsageError
from mcl_tf.export.model_card import read_card
from mcl_tf.score_file import COLUMNS, model_of
from tests.encoded_images import GOOD, damaged_jpeg, seen
from tests.helpers import (
    CLASS_NAMES,
    ROOT,
    SCORE_TOLERANCE,
    call_signature,
    encode,
    mixed_images,
    tinted_images,
    visible_names,
)

COUNT = 11
FILE_NAMES = ["scores.csv", "scores.jsonl"]


@pytest.fixture(scope="module")
def image_files(tiny_detector, tmp_path_factory):
    """A folder of images of several sizes whose names need quotes, and the library's own scores by name.

    A damaged file, a broken link, a hidden file and a pipe, which would block its reader, lie among them.
    """
    folder = tmp_path_factory.mktemp("files") / "images"
    (folder / "deep er").mkdir(parents=True)
    scores = {}
    for index in range(COUNT):
        image = mixed_images(1, 10 + index, 20, index)
        path = folder / ("deep er" if index % 2 else "") / f'{index}, "x".png'
        path.write_bytes(encode(image[0]))
        scores[str(path)] = tiny_detector.decision_function(image)[0]
    (folder / "cut.png").write_bytes(encode(image[0])[:60])
    (folder / "gone.png").symlink_to(folder / "nowhere")
    (folder / ".hidden").write_bytes(b"")
    os.mkfifo(folder / "pipe.png")
    return folder, scores


@pytest.fixture
def score(tiny_export, image_files):
    """Function that scores `image_files` with the tiny SavedModel, in small batches, into an output."""

    def call(output, **options):
        arguments = {"saved_model": tiny_export / "saved_model", "images": image_files[0], "batch_size": 4}
        return mcl_tf.score_files(**{**arguments, "output": output, **options})

    return call


def read_rows(path):
    with open(path, newline="") as file:
        return list(map(json.loads, file)) if str(path).endswith(".jsonl") else list(csv.DictReader(file))


def check_rows(path, scores):
    """Check that a file has one row per image, in order, with the scores of the library."""
    rows = read_rows(path)
    assert [row["file"] for row in rows] == sorted(scores)
    found = [float(row["score"]) for row in rows]
    # The batches are others, and scores are float32 below 100.
    np.testing.assert_allclose(found, [scores[row["file"]] for row in rows], rtol=0, atol=SCORE_TOLERANCE)
    assert {row["class_name"] for row in rows} <= set(CLASS_NAMES)
    assert set(rows[0]) == set(COLUMNS)


@pytest.mark.parametrize("name", FILE_NAMES)
def test_scores_every_file_and_names_unreadable_ones(name, score, image_files, tmp_path, library_log):
    assert score(tmp_path / name) == COUNT
    check_rows(tmp_path / name, image_files[1])
    assert f"{COUNT} files were scored into {tmp_path / name}, 0 were scored before, 3 are" in library_log.text
    for file, reason in (
        ("cut.png", "is a PNG that cannot be decoded"),
        ("gone.png", "cannot be read: No such file or directory"),
        ("pipe.png", "is not a regular file"),
    ):
        assert f"{file} {reason}" in library_log.text
    assert ".hidden" not in library_log.text


@pytest.mark.parametrize("name", FILE_NAMES)
def test_resumes_and_scores_no_file_twice(name, score, image_files, tmp_path, monkeypatch):
    path = tmp_path / name
    score_batch, sizes = file_scoring.score_batch, []

    def interrupt(scorer, images):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(len(images))
        return score_batch(scorer, images)

    monkeypatch.setattr(file_scoring, "score_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        score(path)
    assert 0 < len(read_rows(path)) == sum(sizes) < COUNT  # written as they came
    path.write_bytes(path.read_bytes()[:-7])  # the last row is half-written
    resumed = []
    monkeypatch.setattr(
        file_scoring, "score_batch", lambda scorer, x: (resumed.append(len(x)), score_batch(scorer, x))[1]
    )
    assert score(path, resume=True) == COUNT - sum(sizes) + 1 == sum(resumed)
    check_rows(path, image_files[1])


def test_does_not_touch_an_existing_output(score, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("mine\n")
    for options, message in (({}, "exists. Resume to add to it"), ({"resume": True}, "is not a file of scores")):
        with pytest.raises(UsageError, match=message):
            score(path, **options)
    assert path.read_text() == "mine\n"


def test_scores_names_that_are_not_utf8(score, image_files, tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(encode(mixed_images(1, 9, 9, 0)[0]))
    output = tmp_path / "out" / "scores.csv"
    output.parent.mkdir()
    score(output, images=str(tmp_path / "*.png"))
    assert b"\xff.png" in output.read_bytes()


@pytest.mark.parametrize("name", ["scores.jsonl"])
def test_scores_an_image_again_after_it_was_replaced(name, score, tiny_detector, tmp_path, library_log):
    """And a new one; the rows stay in the order of the names."""
    folder, images = tmp_path / "images", mixed_images(5, 12, 12, 0)
    folder.mkdir()
    for index in (0, 1, 3):
        (folder / f"{index}.png").write_bytes(encode(images[index]))
    assert score(tmp_path / name, images=folder) == 3
    (folder / "1.png").write_bytes(encode(images[4]))
    (folder / "2.png").write_bytes(encode(images[2]))
    (folder / "3.png").unlink()
    assert score(tmp_path / name, images=folder, resume=True) == 2
    assert "2 files were scored into" in library_log.messages[-1]
    rows = {row["file"]: float(row["score"]) for row in read_rows(tmp_path / name)}
    assert list(rows) == [str(folder / f"{index}.png") for index in (3, 0, 1, 2)]  # the file that is gone comes first
    expected = tiny_detector.decision_function(images[[3, 0, 4, 2]])
    np.testing.assert_allclose(list(rows.values()), expected, rtol=0, atol=SCORE_TOLERANCE)


def test_refuses_to_resume_the_scores_of_another_model(score, versions, tmp_path):
    output = tmp_path / "scores.csv"
    score(output)
    before = output.read_bytes()
    assert score(output, resume=True) == 0
    other = mcl_tf.export.set_threshold(versions, value=1.0)
    with pytest.raises(UsageError, match="has scores of another model") as error:
        score(output, saved_model=other, resume=True)
    assert "\n" not in str(error.value)
    assert f"Received: {model_of(other)}, not {model_of(versions / '1')}" in str(error.value)
    assert output.read_bytes() == before


def test_creates_no_output_if_the_model_cannot_be_loaded(score, versions, tmp_path):
    (versions / "1" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cannot be loaded"):
        score(tmp_path / "scores.csv", saved_model=versions)
    assert not (tmp_path / "scores.csv").exists()


def test_fails_if_no_file_can_be_read(score, image_files, tmp_path):
    with pytest.raises(UsageError, match="None of the 1 files of .* is an image that can be read"):
        score(tmp_path / "scores.csv", images=str(image_files[0] / "cut.png"))


# The command line


@pytest.mark.slow
def test_command_line_writes_the_rows_of_the_function_and_imports_nothing_that_trains(
    tiny_export, image_files, tmp_path
):
    folder, scores = image_files
    options = [f"--saved_model={tiny_export / 'saved_model'}", f"--images={folder}"]
    options += ["--mode=score", f"--output={tmp_path / 'command.csv'}"]
    code = "import sys, main; code = main.main(sys.argv); assert 'mcl_tf.training' not in sys.modules; sys.exit(code)"
    command = [sys.executable, "-c", code, *options]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert f"{COUNT} files were scored into {tmp_path / 'command.csv'}" in process.stdout
    check_rows(tmp_path / "command.csv", scores)
    assert mcl_tf.score_files(tiny_export / "saved_model", folder, tmp_path / "function.csv") == COUNT
    for found, expected in zip(read_rows(tmp_path / "command.csv"), read_rows(tmp_path / "function.csv"), strict=True):
        # The number of threads differs between the processes, and with it the order of sums.
        assert float(found.pop("score")) == pytest.approx(float(expected.pop("score")), abs=SCORE_TOLERANCE)
        assert found == expected


@pytest.fixture
def main_logging(monkeypatch):
    """Restore what main.py sets on the library's logger."""
    logger = logging.getLogger("mcl_tf")
    for name in ("handlers", "level", "propagate"):
        value = getattr(logger, name)
        monkeypatch.setattr(logger, name, list(value) if name == "handlers" else value)


@pytest.fixture
def refuse(main_logging, capfd):
    """Function that runs main.py in this process, checks that it refuses its arguments, and returns the message."""

    def call(*arguments):
        with flagsaver.flagsaver():
            code = main.main(["main.py", *arguments])
        lines = capfd.readouterr().err.strip().splitlines()
        assert (code, len(lines)) == (2, 1), lines
        return lines[0]

    return call


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Received: no --saved_model"),
        (("--saved_model=nowhere", "--images=x", "--output=y.csv"), "Received: nowhere"),
        (("--saved_model={0}", "--images={1}/*.bmp", "--output=y.csv"), "Received: {1}/*.bmp"),
        (("--saved_model={0}", "--images={1}", "--output={1}/no/y.csv"), "cannot be written"),
    ],
)
def test_refuses_bad_input_in_one_line(options, message, refuse, tiny_export, image_files):
    folders = (tiny_export / "saved_model", image_files[0])
    assert message.format(*folders) in refuse("--mode=score", *(option.format(*folders) for option in options))


# Thresholds from examples


@pytest.fixture
def examples(tmp_path):
    """A folder with 6 red images, `normal`, 3 blue ones, `other`, and 5 green ones, `defect`, in a subfolder."""
    for name, images in (
        ("normal", tinted_images(12, 20, 18, 1)[0][::2]),
        ("other", tinted_images(6, 20, 18, 2)[0][1::2]),
        ("defect/deep er", mixed_images(15, 20, 18, 3)[2::3]),
    ):
        (tmp_path / "examples" / name).mkdir(parents=True)
        for index, image in enumerate(images):
            (tmp_path / "examples" / name / f"{index}.png").write_bytes(encode(image))
    return tmp_path / "examples"


@pytest.fixture
def versions(tiny_export, tmp_path):
    """A folder of versions that a test may add to."""
    return shutil.copytree(tiny_export / "saved_model", tmp_path / "saved_model")


def library_scores(detector, folder):
    """Return {class: scores} of the library for the files of a folder of examples."""
    return {
        path.name: np.concatenate(
            [detector.decision_function(np.asarray(Image.open(name))[None]) for name in sorted(path.rglob("*.png"))]
        )
        for path in folder.iterdir()
    }


@pytest.mark.parametrize(
    ("target", "normal"), [("f1", ["normal", "other"]), ("youden", ["normal"]), ("fpr=0.2", ["normal"])]
)
def test_chooses_the_threshold_of_the_library(target, normal, examples, versions, tiny_detector, library_log):
    path = file_scoring.choose_threshold(versions, examples, normal, target, batch_size=4)
    assert path == str(versions / "2")
    scores = library_scores(tiny_detector, examples)
    joined = np.concatenate([scores[name] for name in sorted(scores)])
    is_anomaly = np.concatenate([np.full(len(scores[name]), name not in normal) for name in sorted(scores)])
    expected = calibration.threshold_for(joined, is_anomaly, target)
    card = read_card(path)["threshold"]
    assert card["value"] == pytest.approx(expected, abs=SCORE_TOLERANCE)
    counts = f"{np.sum(~is_anomaly)} normal images and {np.sum(is_anomaly)} anomalies"
    assert card["set_by"] == f"the best {target} on {counts}"
    assert (card["quantile"], card["promised_rate"], card["changed_from_version"]) == (None, None, 1)
    found, flagged = 100 * np.mean(joined[is_anomaly] > expected), 100 * np.mean(joined[~is_anomaly] > expected)
    message = f"finds {found:.1f} % of the anomalies and flags {flagged:.1f} % of the normal images ({counts}); {path}"
    assert message in library_log.text
    # The new version uses it.
    image = np.asarray(Image.open(next((examples / "defect").rglob("*.png"))))[None]
    answer = call_signature(path, "serving_default", image)
    assert answer["is_anomaly"] == (answer["score"] > card["value"])


def test_a_later_choice_starts_from_the_newest_version(examples, versions):
    assert file_scoring.choose_threshold(versions, examples, ["normal"]) == str(versions / "2")
    path = file_scoring.choose_threshold(versions, examples, ["normal"], "youden")
    assert path == str(versions / "3")
    assert read_card(path)["threshold"]["changed_from_version"] == 2


@pytest.mark.parametrize(
    ("normal", "target", "message"),
    [
        (["good"], "f1", "sub-folder per class, good among them. Received: {0} with defect, normal, other"),
        (["normal", "good"], "f1", "normal, good among them"),
        (["normal", "other", "defect"], "f1", "14 normal images and 0 anomalies"),
        (["normal"], "f2", "target must be f1, youden or fpr=RATE with a rate from 0 to 1. Received: f2"),
        (["normal"], "fpr=2", "Received: fpr=2"),
    ],
)
def test_refuses_examples_that_give_no_threshold(normal, target, message, examples, versions, monkeypatch):
    """Before the examples are scored, which may take long."""
    monkeypatch.setattr(file_scoring, "scored_batches", None)
    with pytest.raises(UsageError) as error:
        file_scoring.choose_threshold(versions, examples, normal, target)
    assert message.format(examples) in str(error.value)
    assert "\n" not in str(error.value)
    assert visible_names(versions) == ["1"]


def test_refuses_a_model_beside_which_no_version_can_be_written(examples, versions, monkeypatch):
    """Before the examples are scored."""
    monkeypatch.setattr(file_scoring, "scored_batches", None)
    (versions / "1").rename(versions / "model")
    with pytest.raises(UsageError, match=r"The name of a version must be a number.*Received: .*model$"):
        file_scoring.choose_threshold(versions / "model", examples, ["normal"])


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_refuses_examples_without_classes(name, versions, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=f"normal among them. Received: .*{name} with no sub-folders"):
        file_scoring.choose_threshold(versions, tmp_path / name, ["normal"])


def test_refuses_an_example_that_cannot_be_read(examples, versions):
    """It might be the one that matters."""
    for index in range(2):
        (examples / "normal" / f"cut {index}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UsageError, match=r"cut 0.png is a PNG that cannot be decoded.* \(2 such files\)"):
        file_scoring.choose_threshold(versions, examples, ["normal"])
    assert visible_names(versions) == ["1"]


def test_command_line_chooses_a_threshold(examples, versions, main_logging, capfd):
    options = [f"--saved_model={versions}", f"--images={examples}", "--normal=normal,other", "--target=fpr=0.2"]
    with flagsaver.flagsaver():
        code = main.main(["main.py", "--mode=threshold", *options])
    assert code == 0, capfd.readouterr().err
    assert read_card(versions / "2")["threshold"]["set_by"] == "the best fpr=0.2 on 9 normal images and 5 anomalies"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--saved_model={0}", "--images={1}"), "needs --saved_model, --images and --normal. Received: no --normal"),
        (("--images={1}", "--normal=normal"), "--mode=threshold needs --saved_model, --images. Received: no --saved"),
        (("--saved_model={0}", "--normal=normal"), "Received: no --images"),
        (("--saved_model=nowhere", "--images={1}", "--normal=normal"), "Received: nowhere"),
        (("--saved_model={0}", "--images={1}", "--normal=good"), "good among them"),
        (("--saved_model={0}", "--images={1}", "--normal=normal", "--target=f2"), "Received: f2"),
    ],
)
def test_refuses_bad_examples_in_one_line(options, message, refuse, examples, versions):
    assert message in refuse("--mode=threshold", *(option.format(versions, examples) for option in options))


# Files and folders


@pytest.mark.slow
def test_an_image_has_the_same_score_whatever_way_it_comes(score, tiny_export, tiny_detector, tmp_path):
    kinds = ("JPEG", "JPEG, CMYK", "JPEG, turned 6<", "JPEG, turned 7>", "PNG, palette", "GIF, on a larger canvas")
    contents = [GOOD[kind][0] for kind in (*kinds, "GIF, transparent", "BMP, 1 bit")]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.bin").write_bytes(content)
    score(tmp_path / "scores.csv", images=str(tmp_path / "*.bin"))
    from_files = [float(row["score"]) for row in read_rows(tmp_path / "scores.csv")]
    from_bytes = call_signature(tiny_export / "saved_model" / "1", "serving_bytes", contents)["score"]
    from_arrays = np.concatenate([tiny_detector.decision_function(seen(content)[None]) for content in contents])
    np.testing.assert_allclose(from_files, from_arrays, rtol=0, atol=SCORE_TOLERANCE)
    np.testing.assert_allclose(from_bytes, from_arrays, rtol=0, atol=SCORE_TOLERANCE)


def test_counts_links_once_and_what_cannot_be_listed_or_is_damaged_as_unreadable(
    score, image_files, tmp_path, monkeypatch, library_log
):
    folder, scores = image_files
    copy = tmp_path / "images"
    shutil.copytree(folder / "deep er", copy / "deep er")
    (copy / "deep er" / "up").symlink_to(copy)
    (copy / "closed").mkdir()
    (copy / "@eaDir").mkdir()
    for path in (copy / "damaged.jpg", copy / "@eaDir" / "0.jpg"):
        path.write_bytes(damaged_jpeg())
    scandir = os.scandir

    def fail(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    assert score(tmp_path / "scores.csv", images=copy) == COUNT // 2
    check_rows(
        tmp_path / "scores.csv",
        {str(copy / "deep er" / os.path.basename(n)): scores[n] for n in scores if "deep er" in n},
    )
    assert (
        f"{COUNT // 2} files were scored into {tmp_path / 'scores.csv'}, 0 were scored before, 2 are"
        in library_log.text
    )
    assert f"{copy / 'closed'} cannot be listed: Permission denied" in library_log.text
    assert f"{copy / 'damaged.jpg'} is a JPEG with damaged data" in library_log.text


def test_fails_if_the_folder_cannot_be_listed(score, tmp_path, monkeypatch):
    def fail(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(UsageError, match="None of the 1 files of .* is an image that can be read"):
        score(tmp_path / "scores.csv", images=tmp_path)


def test_does_not_score_its_own_output(score, tmp_path, library_log):
    (tmp_path / "a.png").write_bytes(encode(mixed_images(1, 9, 9, 0)[0]))
    assert score(tmp_path / "scores.csv", images=tmp_path) == 1
    assert score(tmp_path / "scores.csv", images=tmp_path, resume=True) == 0
    assert "0 files were scored into" in library_log.text
    assert library_log.text.count("0 are unreadable") == 2
