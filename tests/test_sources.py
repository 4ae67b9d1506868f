"""Datasets: the embedded digits, a set of TensorFlow Datasets, and what is said of sets that are not there."""

import numpy as np
import pytest
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


@pytest.mark.parametrize("name", ["cifar11", "no such set", "../digits", ""])
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
