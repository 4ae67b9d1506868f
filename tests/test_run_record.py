"""What a run is known by: options, images, files of the encoder; every difference is refused by name."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mcl_tf import run_record
from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.run_record import FOLDERS, RECORD, TrainingRecord, with_run_directory
from tests.helpers import ROOT, tinted_images

COUNT = 12
HELD_OUT = np.arange(COUNT) % 3 == 0


@pytest.mark.parametrize(
    ("dataset", "normal", "expected"),
    [
        ("cifar10", ("0", "1"), "runs/cifar10-0+1"),
        ("mnist_corrupted/identity", ("0",), "runs/mnist_corrupted/identity-0"),
        ("{here}/bottle/", ("good",), "runs/bottle-good"),
        ("{here}/../{name}/bottle/.", ("good",), "runs/bottle-good"),
        (".", ("good",), f"runs/{ROOT.name}-good"),
    ],
)
def test_the_default_run_directory_has_the_name_of_the_dataset(dataset, normal, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "bottle").mkdir()
    dataset = dataset.format(here=tmp_path, name=tmp_path.name)
    assert run_record.with_run_directory(Config().replace(dataset=dataset, normal=normal)).run.run_dir == expected


def test_a_given_run_directory_is_kept():
    config = Config().replace(run_dir="there")
    assert run_record.with_run_directory(config) is config


def test_imports_no_tensorflow():
    code = "import sys, mcl_tf.run_record; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


# Records of trainings.


def make_record(images=None, labels=None, held_out=HELD_OUT, size=16, **options):
    drawn = tinted_images(COUNT)
    images, labels = (drawn[0] if images is None else images), (drawn[1] if labels is None else labels)
    return TrainingRecord.create(Config().replace(**options), images, labels, held_out, size)


def refusal(record, run_dir):
    with pytest.raises(UsageError) as error:
        record.check(run_dir)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def run_dir(tmp_path):
    """A run directory with the record of `make_record()`."""
    make_record().write(tmp_path)
    return tmp_path


def test_the_same_training_is_accepted(run_dir):
    make_record().check(run_dir)
    make_record().write(run_dir)
    # Options that follow the training, that change no result, or that say what was in force anyway.
    make_record(views=1, pass_rate=0.95, checkpoint_every=5, keep_versions=1, learning_rate=0.3, image_size=16).check(
        run_dir
    )
    assert [path.name for path in run_dir.rglob("*")] == ["checkpoints", RECORD]


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"learning_rate": 0.1}, "learning_rate: 0.3, not 0.1"),
        ({"seed": 1, "epochs": 3}, "seed: 0, not 1; epochs: 400, not 3"),
        ({"pass_rate": 0.5}, "pass_rate: 0.95, not 0.5"),
        ({"labelled": True}, "labelled: False, not True"),
        ({"size": 32}, "image_size: 16, not 32"),
    ],
)
def test_other_options_are_refused(options, difference, run_dir):
    message = refusal(make_record(**options), run_dir)
    assert message.startswith(f"{run_dir} holds a run with another configuration ({difference}).")


def with_another_pixel():
    images = tinted_images(COUNT)[0]
    images[5, 3, 3, 1] ^= 1
    return images


SWAPPED = [1, 0, *range(2, COUNT)]  # 0 is held out, 1 is not
OTHER_INPUTS = {
    "fewer": (dict(images=tinted_images(9)[0], labels=tinted_images(9)[1], held_out=HELD_OUT[:9]), "12 images then, 9"),
    "a pixel": (dict(images=with_another_pixel()), "12 then and now, with other contents"),
    "a label": (dict(labels=np.arange(COUNT) // 6), "12 then and now, with other contents or labels"),
    "held out": (dict(held_out=HELD_OUT[SWAPPED]), "on the same images in another order, which held out others"),
}


@pytest.mark.parametrize("name", OTHER_INPUTS)
def test_other_images_are_refused(name, run_dir):
    inputs, difference = OTHER_INPUTS[name]
    assert difference in refusal(make_record(**inputs), run_dir)


def test_the_order_of_the_images_alone_makes_no_difference(run_dir):
    order = np.random.default_rng(0).permutation(COUNT)
    images, labels = tinted_images(COUNT)
    make_record(images[order], labels[order], HELD_OUT[order]).check(run_dir)


def test_another_file_of_the_encoder_is_refused(tmp_path):
    file = tmp_path / "encoder.keras"
    file.write_bytes(b"one")
    record = make_record(encoder=str(file))
    record.write(tmp_path)
    make_record(encoder=str(file)).check(tmp_path)
    file.write_bytes(b"two")
    assert "holds a training with another file as encoder." in refusal(make_record(encoder=str(file)), tmp_path)


@pytest.mark.parametrize("name", ["checkpoints/step-000000003", "checkpoints-restart"])
def test_checkpoints_without_a_record_are_refused(name, tmp_path):
    make_record().check(tmp_path)
    (tmp_path / name).mkdir(parents=True)
    assert "holds checkpoints whose options and images are unknown" in refusal(make_record(), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {}}', '{"config": 3, "count": 2}'])
def test_a_damaged_record_is_refused(text, run_dir):
    (run_dir / FOLDERS[0] / RECORD).write_text(text)
    assert f"{RECORD} cannot be read, choose another run_dir" in refusal(make_record(), run_dir)


def test_of_two_trainings_that_begin_at_once_one_is_refused(tmp_path):
    first, second = make_record(), make_record(seed=1)
    for record in (first, second):
        record.check(tmp_path)
    first.write(tmp_path)
    with pytest.raises(UsageError, match="seed: 0, not 1"):
        second.write(tmp_path)
    first.check(tmp_path)


def test_a_record_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="run_dir .*file cannot be written"):
        make_record().write(tmp_path / "file")
    (tmp_path / FOLDERS[0]).touch()
    with pytest.raises(UsageError, match=f"run_dir {tmp_path} cannot be written: Not a directory"):
        make_record().write(tmp_path)


def test_a_record_is_plain_json(run_dir):
    contents = json.loads((run_dir / FOLDERS[0] / RECORD).read_text())
    assert set(contents) == {field.name for field in dataclasses.fields(TrainingRecord)}
    assert (contents["count"], contents["config"]["data"]["image_size"]) == (COUNT, 16)


@pytest.mark.parametrize("letter", ["n", "类"])
def test_many_classes_give_a_short_default_run_directory(letter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = tuple(f"class {letter * 5} {number}" for number in range(60))
    first, again, other = (
        with_run_directory(Config().replace(dataset="cifar10", normal=normal)).run.run_dir
        for normal in (names, names, names[:-1])
    )
    assert first == again != other
    assert first.startswith(f"runs/cifar10-class {letter * 5} 0+class")
    pathlib.Path(first, "checkpoints").mkdir(parents=True)  # the file system takes the name
