"""Sources of images: the embedded digits, folders, TensorFlow Datasets, and names of none of them."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mcl_tf.data import sources
from mcl_tf.data.sources import FolderSource, TensorFlowDatasetsSource, load_source
from mcl_tf.errors import UsageError


def test_splits_digits_without_overlap_or_loss():
    source = load_source("digits")
    counts = [sum(1 for _ in source.read(split)) for split in ("train", "test")]
    assert counts == [sources.DIGITS_TRAIN, 1797 - sources.DIGITS_TRAIN]
    assert source.class_names == tuple("0123456789")


def test_digits_are_uint8_over_the_full_range():
    images = np.stack([image for image, _ in load_source("digits").read("train").as_numpy_iterator()])
    assert images.shape[1:] == (8, 8, 1)
    assert images.dtype == np.uint8
    assert images.min() == 0
    assert images.max() == 255  # grey level 16 of 16


@pytest.mark.parametrize("name", ["digits", "tiny_images"])
def test_selects_classes_in_a_fixed_order(name, tiny_dataset):
    source = load_source(name, tiny_dataset)
    all_examples = list(source.read("train").as_numpy_iterator())
    chosen = list(source.read("train", [0, 2]).as_numpy_iterator())
    expected = [(x, y) for x, y in all_examples if y in (0, 2)]
    assert len(chosen) == len(expected) > 0
    for (x, y), (expected_x, expected_y) in zip(chosen, expected, strict=True):
        assert y == expected_y
        np.testing.assert_array_equal(x, expected_x)


def test_tensorflow_datasets_knows_names_and_shape(tiny_dataset):
    source = load_source("tiny_images", tiny_dataset)
    assert isinstance(source, TensorFlowDatasetsSource)
    assert source.class_names == ("red", "green", "blue")
    assert source.image_shape == (20, 20, 3)
    assert (source.test_classes(), source.names("test")) == (None, None)


@pytest.mark.parametrize("name", ["cifar11", "no such set", "no/such", ""])
def test_refuses_an_unknown_dataset_and_says_what_is_possible(name, tmp_path):
    with pytest.raises(UsageError, match="digits.*Received") as error:
        load_source(name, str(tmp_path))
    assert "\n" not in str(error.value)


def test_suggests_similar_names(tmp_path):
    with pytest.raises(UsageError, match="cifar10,"):
        load_source("cifar_10", str(tmp_path))


def test_refuses_a_dataset_without_images(tmp_path):
    with pytest.raises(UsageError, match="not a dataset of images"):
        load_source("imdb_reviews", str(tmp_path))


def test_refuses_a_dataset_without_the_split(tiny_dataset):
    with pytest.raises(UsageError, match="tiny_images has no validation split. Received: "):
        load_source("tiny_images", tiny_dataset, ("train", "validation"))


def test_reports_a_failed_download_in_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UsageError, match="no route.*--data_dir=DIR.*data_dir.*dataset digits") as error:
        load_source("mnist", str(tmp_path))
    assert "\n" not in str(error.value)


# Folders of images; tests of `mcl_tf.data.folders` cover the rest


def test_folder_source_knows_classes_shape_and_test_split(image_folder):
    source = load_source(str(image_folder))
    assert isinstance(source, FolderSource)
    assert source.name == str(image_folder)
    assert source.class_names == ("cut", "good")
    assert source.image_shape == (20, 24, 3)
    assert source.test_classes().tolist() == [0, 0, 1, 1, 1]
    assert source.names("test")[0] == "test/cut/0/9.png"
    assert [label for _, label in source.read("test").as_numpy_iterator()] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", [".", "./bottle", "bottle"])
def test_finds_a_folder_from_the_working_directory(name, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(image_folder if name == "." else image_folder.parent)
    assert load_source(name, str(tmp_path)).class_names == ("cut", "good")


@pytest.mark.parametrize("name", ["tiny_images", "digits"])
def test_prefers_a_known_dataset_to_a_folder_of_that_name(name, tiny_dataset, image_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).symlink_to(image_folder)
    assert not isinstance(load_source(name, tiny_dataset), FolderSource)
    assert isinstance(load_source(f"./{name}", tiny_dataset), FolderSource)
