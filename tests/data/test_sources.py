"""Datasets: the embedded digits, a set of TensorFlow Datasets, and what is said of sets that are not there."""

import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mcl_tf.data import sources
from mcl_tf.data.sources import load_source
from mcl_tf.errors import UsageError


def test_digits_are_split_without_overlap_or_loss():
    source = load_source("digits")
    counts = [sum(1 for _ in source.read(split)) for split in ("train", "test")]
    assert counts == [sources.DIGITS_TRAIN, 1797 - sources.DIGITS_TRAIN]
    assert source.class_names == tuple("0123456789")


def test_digits_are_uint8_over_the_full_range():
    pictures = np.stack([picture for picture, _ in load_source("digits").read("train").as_numpy_iterator()])
    assert pictures.shape[1:] == (8, 8, 1)
    assert pictures.dtype == np.uint8
    assert pictures.min() == 0
    assert pictures.max() == 255  # grey level 16 of 16


@pytest.mark.parametrize("name", ["digits", "tiny_pictures"])
def test_classes_select_pictures_in_a_fixed_order(name, tiny_dataset):
    source = load_source(name, tiny_dataset)
    every = list(source.read("train").as_numpy_iterator())
    chosen = list(source.read("train", [0, 2]).as_numpy_iterator())
    expected = [(x, y) for x, y in every if y in (0, 2)]
    assert len(chosen) == len(expected) > 0
    for (x, y), (wanted_x, wanted_y) in zip(chosen, expected, strict=True):
        assert y == wanted_y
        np.testing.assert_array_equal(x, wanted_x)


def test_tensorflow_datasets_brings_names_and_shape(tiny_dataset):
    source = load_source("tiny_pictures", tiny_dataset)
    assert source.class_names == ("red", "green", "blue")
    assert source.picture_shape == (20, 20, 3)


@pytest.mark.parametrize("name", ["cifar11", "no such set", "no/such", ""])
def test_an_unknown_dataset_is_refused_with_what_is_possible(name, tmp_path):
    with pytest.raises(UsageError, match="digits.*Received") as error:
        load_source(name, str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_close_name_is_offered(tmp_path):
    with pytest.raises(UsageError, match="cifar10,"):
        load_source("cifar_10", str(tmp_path))


def test_a_set_without_pictures_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not a set of pictures"):
        load_source("imdb_reviews", str(tmp_path))


def test_a_failing_download_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UsageError, match="no route.*--data_dir.*--dataset=digits") as error:
        load_source("mnist", str(tmp_path))
    assert "\n" not in str(error.value)


# Folders of pictures


def test_a_folder_brings_names_and_the_first_pictures_shape(picture_folder):
    source = load_source(str(picture_folder))
    assert source.class_names == ("cut", "good")
    assert source.picture_shape == (20, 24, 3)
    paths, labels = source.folder.files["train"]
    assert paths == [
        "train/good/0.png",
        "train/good/1.JPG",
        "train/good/2.bmp",
        "train/good/3.gif",
        "train/good/4.jpeg",
        "train/good/5.PNG",
        "train/good/deep er/6.png",
        "train/good/deep er/7.png",
    ]
    assert labels.tolist() == [1] * 8
    assert source.folder.files["test"][1].tolist() == [0, 0, 1, 1, 1]


def test_a_folders_pictures_keep_their_sizes_and_have_three_channels(picture_folder):
    source = load_source(str(picture_folder))
    found = [picture for picture, _ in source.read("train", [1]).as_numpy_iterator()]
    assert [picture.shape for picture in found[:6]] == [(20 + 3 * i, 24 + i, 3) for i in range(6)]
    for picture in found[:7]:  # 4: what JPEG and a GIF's palette may round away
        np.testing.assert_allclose(picture, np.broadcast_to([20, 200, 20], picture.shape), atol=4)
    assert np.ptp(found[7]) == 0  # grey in all three channels
    assert [label for _, label in source.read("test").as_numpy_iterator()] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", [".", "./bottle", "bottle"])
def test_a_folder_is_found_from_where_one_stands(name, picture_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(picture_folder if name == "." else picture_folder.parent)
    assert load_source(name, str(tmp_path)).class_names == ("cut", "good")


@pytest.mark.parametrize("name", ["tiny_pictures", "digits"])
def test_a_known_dataset_comes_before_a_folder_of_that_name(
    name, tiny_dataset, picture_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).symlink_to(picture_folder)
    assert load_source(name, tiny_dataset).folder is None
    assert load_source(f"./{name}", tiny_dataset).folder is not None


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "There is no such folder.*Received: .*/set"),
        ([""], "no train folder"),
        (["train/a/1.png"], "no test folder"),
        (["train/a/1.png", "test/a/1.tif"], r"no pictures \(.bmp, .*\) in the classes of test"),
        (["train/1.png", "test/a/1.png"], "in the classes of train.*Possible: a folder DIR"),
    ],
)
def test_a_folder_of_another_layout_is_refused(made, message, tmp_path):
    for name in made:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"") if path.suffix else path.mkdir(exist_ok=True)
    with pytest.raises(UsageError, match=message) as error:
        load_source(str(tmp_path / "set"))
    assert "\n" not in str(error.value)


def test_files_that_are_no_utf8_are_read(tmp_path):
    for split in ("train", "test"):
        folder = os.path.join(os.fsencode(tmp_path), split.encode(), b"good")
        os.makedirs(folder)
        with open(os.path.join(folder, b"\xff.png"), "wb") as file:
            file.write(tf.io.encode_png(np.zeros((3, 3, 3), np.uint8)).numpy())
    source = load_source(str(tmp_path))
    assert len(list(source.read("train"))) == 1
    assert source.folder.identifiers() == [r"test/good/\udcff.png"]
