"""Room for images: the limit decides between memory and a file, and both hold the same images and labels."""

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.data import room, store
from mcl_tf.data.room import Reading, Room
from mcl_tf.data.store import StoredImages
from mcl_tf.errors import UsageError
from tests.helpers import unreadable_images, visible_names

IMAGES = np.random.default_rng(0).integers(0, 256, (150, 4, 4, 3), dtype=np.uint8)  # more than two batches
LABELS = np.arange(150) % 7
NEEDED = 2 * IMAGES.nbytes  # the images, and their parts that are trained on or held out


def make_reading(key="", labelled=True, counted=True):
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS) if labelled else IMAGES)
    return Reading(dataset if counted else dataset.filter(lambda *_: True), key)


def make_room(folder, limit):
    return Room(RunConfig(memory_limit=limit, cache_dir=str(folder)))


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("key", ["", "name"])
@pytest.mark.parametrize("limit", [NEEDED, NEEDED - 1, 0])
def test_holds_the_same_images_in_memory_and_in_a_file(limit, key, labelled, counted, tmp_path):
    for again in (False, True):
        reading = make_reading(key, labelled, counted)
        images, labels = make_room(tmp_path, limit).hold(reading)
        assert isinstance(images, StoredImages) == (limit < NEEDED)
        np.testing.assert_array_equal(images, IMAGES)
        if labelled:
            np.testing.assert_array_equal(labels, LABELS)
            assert labels.dtype == np.int64
        else:
            assert labels is None
        assert visible_names(tmp_path) == ["name"] * (limit < NEEDED and bool(key)), again


def test_reads_no_image_again_that_a_file_has(tmp_path):
    make_room(tmp_path, 0).hold(make_reading("name"))
    for counted in (True, False):
        reading = make_reading("name", counted=counted)
        reading.batches = unreadable_images
        images, labels = make_room(tmp_path, 0).hold(reading)
        np.testing.assert_array_equal(images, IMAGES)
        np.testing.assert_array_equal(labels, LABELS)


def test_what_is_held_counts(tmp_path):
    both = make_room(tmp_path, 2 * NEEDED - 1)
    found = [both.hold(make_reading())[0] for _ in range(2)]
    assert [isinstance(images, StoredImages) for images in found] == [False, True]


@pytest.mark.parametrize(("free", "in_memory"), [(2 * NEEDED, True), (2 * NEEDED - 2, False), (None, True)])
def test_half_of_the_free_memory_is_the_default(free, in_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(room.memory, "available", lambda: free)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images, _ = Room().hold(make_reading("name"))
    assert isinstance(images, np.ndarray) == in_memory
    assert (tmp_path / "mcl_tf" / "name").exists() != in_memory


def test_the_default_folder_is_that_of_the_user(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert str(room.default_cache_dir()) == "/home/me/.cache/mcl_tf"


@pytest.mark.parametrize("limit", [None, 0])
def test_keeps_nothing_of_images_that_cannot_be_read(limit, tmp_path):
    reading = make_reading("name")

    def check():
        raise UsageError("Too many cannot be read")

    reading.check = check
    with pytest.raises(UsageError, match="Too many"):
        make_room(tmp_path, limit).hold(reading)
    assert visible_names(tmp_path) == []


@pytest.mark.parametrize("limit", [None, 0])
def test_leaves_out_images(limit, tmp_path):
    images, _ = make_room(tmp_path, limit).hold(make_reading())
    gone = [0, 7, 8, 149]
    np.testing.assert_array_equal(room.without(images, gone), np.delete(IMAGES, gone, axis=0))
    assert store.select(IMAGES, [3, 1]).shape == (2, 4, 4, 3)
