"""Images on disk: rows in any order, stores that are whole or written again, and folders that cannot hold them."""

import concurrent.futures
import os
import threading
import time
import types

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.data import store
from mcl_tf.errors import UsageError
from tests.helpers import Killed, fail_at, unreadable_images, visible_names

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), dtype=np.uint8)
BRIGHT = IMAGES[:, 0, 0, 0] > 99
KEY = store.key_of("these images")


def obtain(folder, images=IMAGES, **contents):
    return store.obtain(folder, KEY, iter(np.array_split(images, 3)), lambda: contents)


@pytest.fixture
def stored(tmp_path):
    return obtain(tmp_path)[0]


@pytest.mark.parametrize(
    "index",
    [3, -1, np.int64(10), slice(2, 9, 3), slice(20, 30), np.array([5, 0, 5]), BRIGHT, np.zeros(0, int)],
    ids=["one", "last", "int64", "slice", "nothing", "numbers", "mask", "no numbers"],
)
def test_reads_the_parts_that_an_array_has(index, stored):
    np.testing.assert_array_equal(stored[index], IMAGES[index])
    chosen = np.array([7, 1, 4, 4, 10, 0, 2, 3, 5, 6, 9])
    np.testing.assert_array_equal(stored.select(chosen)[index], IMAGES[chosen][index])


def test_behaves_like_an_array(stored):
    assert (stored.shape, stored.dtype, stored.ndim, len(stored)) == (IMAGES.shape, IMAGES.dtype, 4, 11)
    np.testing.assert_array_equal(np.asarray(stored), IMAGES)
    np.testing.assert_array_equal(list(stored), IMAGES)
    np.testing.assert_array_equal(list(stored.select(BRIGHT)), IMAGES[BRIGHT])
    with pytest.raises(IndexError):
        stored[11]


def test_numpy_maps_the_file_into_memory(stored, tmp_path):
    np.testing.assert_array_equal(np.load(tmp_path / KEY / store.IMAGES, mmap_mode="r"), IMAGES)
    assert len(stored) == 11


def test_a_dataset_reads_the_same_rows_from_a_file_and_from_memory(stored):
    rows = np.array([9, 0, 9])
    for images in (stored, IMAGES):
        np.testing.assert_array_equal(store.reader(images)(rows), IMAGES[rows])
        data = list(store.as_dataset(images, rows, ["a", "b", "c"]).as_numpy_iterator())
        np.testing.assert_array_equal([image for image, _ in data], IMAGES[rows])
        assert [name for _, name in data] == [b"a", b"b", b"c"]


def test_is_written_once(tmp_path):
    first = obtain(tmp_path, labels=[1, 2])
    again = store.obtain(tmp_path, KEY, unreadable_images(), dict)
    np.testing.assert_array_equal(again[0], IMAGES)
    assert first[1] == again[1] == {"count": 11, "labels": [1, 2]}
    assert visible_names(tmp_path) == [KEY]


def test_other_data_have_another_key(stored):
    keys = {store.key_of(*parts) for parts in (("a", "b"), ("ab",), ("a", "b", ""), ("b", "a"), (), ("a", 1), ("a", 2))}
    assert len(keys) == 7
    chosen = {stored.select(part).key for part in (BRIGHT, ~BRIGHT, np.arange(11))}
    assert len({KEY, *chosen}) == 4
    assert stored.key == KEY


def test_images_outlive_the_removal_of_their_file(stored, tmp_path):
    os.remove(tmp_path / KEY / store.IMAGES)
    np.testing.assert_array_equal(stored[:], IMAGES)


def test_a_file_that_becomes_shorter_is_an_error_and_no_crash(stored, tmp_path):
    os.truncate(tmp_path / KEY / store.IMAGES, 200)
    with pytest.raises(OSError, match="has become shorter"):
        stored[:]


@pytest.mark.parametrize("damage", ["no description", "no images", "cut", "empty", '{"count": 12}', "{", "[11]"])
def test_what_is_not_whole_is_written_again(damage, tmp_path):
    obtain(tmp_path, IMAGES[::-1], labels=[3])
    images, description = tmp_path / KEY / store.IMAGES, tmp_path / KEY / store.DESCRIPTION
    if damage == "no description":
        description.unlink()
    elif damage == "no images":
        images.unlink()
    elif damage in ("cut", "empty"):
        os.truncate(images, 300 if damage == "cut" else 0)
    else:
        description.write_text(damage)
    found, contents = obtain(tmp_path, labels=[4])
    np.testing.assert_array_equal(found, IMAGES)
    assert contents["labels"] == [4]


def test_a_folder_with_other_files_is_not_replaced(tmp_path):
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=f"cannot hold them: {KEY} in it holds other files. Choose another cache_dir"):
        obtain(tmp_path)
    assert (tmp_path / KEY / "holiday.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=["full", "killed"])
def test_a_failure_at_any_step_leaves_a_whole_store_or_none(error, tmp_path, monkeypatch):
    step, reached = 0, True
    while reached:
        folder = tmp_path / str(step)
        with fail_at(monkeypatch, step, error) as fault:
            obtain(folder)
        reached = fault.reached
        found = store.find(folder, KEY)
        if found is not None:
            np.testing.assert_array_equal(found[0], IMAGES)
        np.testing.assert_array_equal(obtain(folder)[0], IMAGES)
        # What a killed process has left behind is gone, because nobody holds its lock.
        assert sorted(os.listdir(folder)) == [f".{KEY}.lock", KEY]
        step += 1
    assert step > 5


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=10))
    with pytest.raises(UsageError) as error:
        store.obtain(tmp_path, KEY, unreadable_images(), dict, expected=2**30)
    assert str(error.value) == (
        f"The images exceed memory_limit, and cache_dir {tmp_path} cannot hold them: No space left on device for "
        "1.0 GiB. Choose another cache_dir or a larger memory_limit"
    )
    with pytest.raises(UsageError, match="No space left on device"):
        store.obtain_unnamed(tmp_path, unreadable_images(), expected=2**30)
    assert visible_names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        for write in (obtain, lambda folder: store.obtain_unnamed(folder, [IMAGES])):
            with pytest.raises(UsageError, match=f"cache_dir {folder} cannot hold them: ") as error:
                write(folder)
            assert "\n" not in str(error.value)


def test_a_store_in_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    obtain(tmp_path)
    monkeypatch.setattr(store, "_alone", lambda *args: pytest.fail("It needs no lock"))
    np.testing.assert_array_equal(store.obtain(tmp_path, KEY, unreadable_images(), dict)[0], IMAGES)


def test_a_file_without_a_name_leaves_nothing_behind(tmp_path):
    images = store.obtain_unnamed(tmp_path / "new", iter([IMAGES[:4], IMAGES[4:]]))
    np.testing.assert_array_equal(images, IMAGES)
    assert os.listdir(tmp_path / "new") == []
    assert store.obtain_unnamed(tmp_path, []).shape == (0, 0, 0, 3)


def test_of_two_that_need_it_at_once_one_writes_and_the_other_waits(tmp_path, library_log):
    begun, may_end = threading.Event(), threading.Event()

    def slowly():
        yield IMAGES[:5]
        begun.set()
        assert may_end.wait(60)
        yield IMAGES[5:]

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.obtain, tmp_path, KEY, slowly(), dict)
        assert begun.wait(60)
        second = pool.submit(store.obtain, tmp_path, KEY, unreadable_images(), dict)
        while "Waiting for another process" not in library_log.text:
            assert not second.done()
            time.sleep(0.01)
        may_end.set()
        for found in (first, second):
            np.testing.assert_array_equal(found.result()[0], IMAGES)
    assert visible_names(tmp_path) == [KEY]


def test_an_array_is_read_without_a_copy():
    images = np.zeros((6, 4, 4, 3), np.uint8)
    batches = tf.data.Dataset.range(3).map(lambda step: store.reader(images)(2 * step + tf.range(2, dtype=tf.int64)))
    assert store.select(images, np.ones(6, bool)) is images
    images[:] = np.arange(6)[:, None, None, None]
    found = np.concatenate(list(batches.as_numpy_iterator()))
    np.testing.assert_array_equal(found, images)
