"""Which picture plays which part."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data.sources import load_source
from mcl_tf.data.tasks import build_task, choose_size, parse_classes, read_pictures
from mcl_tf.errors import UsageError


def test_one_class_against_the_others():
    task = build_task(DataConfig(dataset="digits", normal=("3",)))
    source = load_source("digits")
    assert len(task.train) == sum(1 for _, y in source.read("train").as_numpy_iterator() if y == 3)
    assert task.class_names == ("3",)
    assert task.train.shape[1:] == (16, 16, 3)  # 8x8 pictures are brought to the smallest size
    assert set(task.train_labels) == {0}
    test = list(task.test.as_numpy_iterator())
    assert len(test) == sum(1 for _ in source.read("test"))
    for _, is_anomaly, _, name in test:
        assert is_anomaly == (name != b"3")
    assert len({identifier for *_, identifier, _ in test}) == len(test)


@pytest.mark.parametrize(
    ("normal", "labelled", "names", "labels"),
    [
        (("red",), False, ("red",), {0}),
        (("blue", "0"), False, ("blue+red",), {0}),
        (("2", "0"), True, ("blue", "red"), {0, 1}),
    ],
)
def test_several_classes_by_number_or_name(tiny_dataset, normal, labelled, names, labels):
    config = DataConfig(dataset="tiny_pictures", normal=normal, labelled=labelled)
    task = build_task(config, tiny_dataset)
    assert task.class_names == names
    assert set(task.train_labels) == labels
    assert len(task.train) == 10 * len(normal)
    # The dominant colour tells the class: label 0 is the first class named, where labels count.
    colours = task.train[:, 10, 10].argmax(-1)
    first = {"red": 0, "blue": 2, "2": 2}[normal[0]]
    assert set(colours[task.train_labels == 0]) == ({first} if labelled or len(normal) == 1 else {0, 2})
    anomalies = [is_anomaly for _, is_anomaly, *_ in task.test.as_numpy_iterator()]
    assert sum(anomalies) == 12 - 4 * len(normal)


def test_another_dataset_holds_the_anomalies(tiny_dataset):
    config = DataConfig(dataset="tiny_pictures", normal=("all",), labelled=True, anomaly_dataset="digits")
    task = build_task(config, tiny_dataset)
    test = list(task.test.as_numpy_iterator())
    assert [bool(row[1]) for row in test[:12]] == [False] * 12
    assert len(test) == 12 + 599
    assert all(row[1] for row in test[12:])
    assert test[12][0].shape == test[0][0].shape == (20, 20, 3)
    assert test[12][2] == b"digits/test/0"


@pytest.mark.parametrize(
    ("normal", "message"),
    [
        (("3",), "Possible: 0 red, 1 green, 2 blue or all. Received: 3"),
        (("-1",), "Received: -1"),
        (("purple",), "Received: purple"),
        (("red", "0"), "twice"),
        (("all",), "no anomaly"),
        (("0", "1", "2"), "no anomaly"),
    ],
)
def test_bad_classes_are_refused(tiny_dataset, normal, message):
    with pytest.raises(UsageError, match=message):
        build_task(DataConfig(dataset="tiny_pictures", normal=normal), tiny_dataset)


def test_all_is_every_class(tiny_dataset):
    assert parse_classes(("all",), load_source("tiny_pictures", tiny_dataset)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("asked", "shape", "size"),
    [
        (0, (32, 32, 3), 32),
        (0, (8, 8, 1), 16),
        (0, (300, 500, 3), 224),
        (0, (None, None, 3), 224),
        (0, (20, 48, 3), 48),
        (64, (32, 32, 3), 64),
    ],
)
def test_size_is_asked_for_or_the_pictures_own_within_bounds(asked, shape, size):
    assert choose_size(asked, shape) == size


def test_training_pictures_come_in_the_same_order_each_time(tiny_dataset):
    config = DataConfig(dataset="tiny_pictures", normal=("0",))
    first, second = (build_task(config, tiny_dataset).train for _ in range(2))
    np.testing.assert_array_equal(first, second)


# Folders of pictures


def folder_copy(picture_folder, tmp_path):
    return shutil.copytree(picture_folder, tmp_path / "copy")


@pytest.mark.parametrize("normal", ["good", "1"])
def test_a_folder_gives_paths_as_identifiers(picture_folder, normal):
    task = build_task(DataConfig(dataset=str(picture_folder), normal=(normal,)))
    assert task.train.shape == (8, 24, 24, 3)  # the first picture's longer side
    test = [row[1:] for row in task.test.as_numpy_iterator()]
    assert [(bool(is_anomaly), identifier.decode(), name) for is_anomaly, identifier, name in test] == [
        (True, "test/cut/0/9.png", b"cut"),
        (True, "test/cut/ü, 1.jpg", b"cut"),
        *((False, f"test/good/{place}.png", b"good") for place in range(3)),
    ]


def test_a_folders_pictures_are_prepared_like_all_others(picture_folder):
    task = build_task(DataConfig(dataset=str(picture_folder), normal=("good",), image_size=30))
    decoded = load_source(str(picture_folder)).read("train", [1])
    for mine, (picture, _) in zip(task.train, decoded, strict=True):
        np.testing.assert_array_equal(mine, views.prepare(picture[None], 30)[0])


def test_another_folder_holds_the_anomalies_and_needs_no_training_pictures(picture_folder, tmp_path):
    other = folder_copy(picture_folder, tmp_path)
    shutil.rmtree(other / "train")
    config = DataConfig(dataset=str(picture_folder), normal=("all",), anomaly_dataset=str(other))
    with pytest.raises(UsageError, match="Possible for --normal: 1 good. Received: 0 cut"):
        build_task(config)
    task = build_task(dataclasses.replace(config, normal=("good",)))
    rows = [
        (identifier.decode(), bool(is_anomaly)) for _, is_anomaly, identifier, _ in task.test.as_numpy_iterator()
    ]
    assert len(dict(rows)) == 10
    assert dict(rows)["test/good/0.png"] is False
    assert dict(rows)[f"{other}/test/good/0.png"] is True


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("test/good", {}, r"no normal pictures \(good\)"),
        ("test/cut", {"normal": ("good",)}, "no anomaly"),  # then there is no other class at all
        (
            None,
            {"normal": ("0",)},
            "no train pictures of this class. Possible for --normal: 1 good. Received: 0 cut",
        ),
        (None, {"normal": ("purple",)}, "Possible: 0 cut, 1 good or all"),
    ],
)
def test_a_folder_without_what_the_task_needs_is_refused(picture_folder, tmp_path, missing, options, message):
    folder = folder_copy(picture_folder, tmp_path)
    if missing:
        shutil.rmtree(folder / missing)
    with pytest.raises(UsageError, match=message):
        build_task(DataConfig(**{"dataset": str(folder), "normal": ("good",), **options}))


def test_a_test_folder_without_anomalies_is_refused(picture_folder, tmp_path):
    folder = folder_copy(picture_folder, tmp_path)
    (folder / "test" / "cut").rename(folder / "train" / "cut")
    config = DataConfig(dataset=str(folder), normal=("good",))
    with pytest.raises(UsageError, match="no pictures of other classes, and there is no --anomaly_dataset in"):
        build_task(config)
    assert len(build_task(dataclasses.replace(config, anomaly_dataset=str(picture_folder))).train) == 8


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (["train/good/3.gif"], "train/good/3.gif is a GIF that cannot be decoded.*kind$"),
        (
            ["test/good/1.png", "test/cut/0/9.png"],
            r"test/cut/0/9.png is a PNG.*\(and 1 more file cannot be read\)$",
        ),
        (
            ["train/good/2.bmp", "test/good/1.png", "test/cut/0/9.png"],
            r"2.bmp is a BMP.*\(and 2 more files cannot be",
        ),
    ],
)
def test_damaged_files_are_named_before_the_training(picture_folder, tmp_path, damaged, message):
    folder = folder_copy(picture_folder, tmp_path)
    for name in damaged:
        (folder / name).write_bytes((folder / name).read_bytes()[:50])
    with pytest.raises(UsageError, match=message) as error:
        build_task(DataConfig(dataset=str(folder), normal=("good",)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("contents", "message"), [(b"", "is empty"), (b"<svg/>", "is no picture of a known format")]
)
def test_a_file_with_the_wrong_name_is_named(picture_folder, tmp_path, contents, message):
    folder = folder_copy(picture_folder, tmp_path)
    (folder / "train" / "good" / "0.png").write_bytes(contents)  # the first one: its size is asked for, too
    with pytest.raises(UsageError, match=f"train/good/0.png {message}"):
        build_task(DataConfig(dataset=str(folder), normal=("good",)))


def test_reading_can_be_watched(picture_folder):
    seen = []

    def watch(batches, what):
        for batch in batches:
            seen.append(what)
            yield batch

    build_task(DataConfig(dataset=str(picture_folder), normal=("good",)), watch=watch)
    assert set(seen) == {"Reading pictures", "Checking test pictures"}


@pytest.mark.parametrize("known", [tf.data.experimental.UNKNOWN_CARDINALITY, 150])
def test_pictures_are_read_whole_whether_their_number_is_known_or_not(known, rng):
    """150 are more than two batches."""
    pictures = rng.integers(0, 256, (150, 16, 16, 3), dtype=np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((pictures, np.arange(150)))
    if known != 150:
        dataset = dataset.filter(lambda *_: True)
    assert int(dataset.cardinality()) == known
    found, labels = read_pictures(dataset, 16)
    np.testing.assert_array_equal(found, pictures)
    np.testing.assert_array_equal(labels, np.arange(150))
    alone, nothing = read_pictures(dataset.map(lambda picture, _: picture), 16)
    np.testing.assert_array_equal(alone, pictures)
    assert nothing is None


@pytest.mark.parametrize("count", [0, tf.data.experimental.UNKNOWN_CARDINALITY])
def test_an_empty_dataset_is_refused(count):
    dataset = tf.data.Dataset.from_tensor_slices(np.zeros((3, 16, 16, 3), np.uint8))
    dataset = dataset.take(0) if count == 0 else dataset.filter(lambda _: False)
    assert int(dataset.cardinality()) == count
    with pytest.raises(UsageError, match="no pictures.*empty dataset"):
        read_pictures(dataset, 16)
