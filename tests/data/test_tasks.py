"""Tasks: which images are trained on, which are normal in the test, and what a task cannot do without."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data.source import Source
from mcl_tf.data.sources import load_source
from mcl_tf.data.tasks import build_task, choose_sizes, parse_classes, read_images
from mcl_tf.errors import UsageError
from tests.encoded_images import damaged_jpeg


def test_one_class_against_the_others():
    task = build_task(DataConfig(dataset="digits", normal=("3",)))
    source = load_source("digits")
    assert len(task.train) == sum(1 for _, y in source.read("train").as_numpy_iterator() if y == 3)
    assert task.class_names == ("3",)
    assert task.train.shape[1:] == (16, 16, 3)  # images of 8x8 pixels are enlarged to the smallest size
    assert set(task.train_labels) == {0}
    test = list(task.test.as_numpy_iterator())
    assert len(test) == sum(1 for _ in source.read("test"))
    for _, is_anomaly, _, class_name in test:
        assert is_anomaly == (class_name != b"3")
    assert len({name for *_, name, _ in test}) == len(test)


@pytest.mark.parametrize(
    ("normal", "labelled", "names", "labels"),
    [
        (("red",), False, ("red",), {0}),
        (("blue", "0"), False, ("blue+red",), {0}),
        (("2", "0"), True, ("blue", "red"), {0, 1}),
    ],
)
def test_takes_several_classes_by_number_or_name(tiny_dataset, normal, labelled, names, labels):
    config = DataConfig(dataset="tiny_images", normal=normal, labelled=labelled)
    task = build_task(config, tiny_dataset)
    assert task.class_names == names
    assert set(task.train_labels) == labels
    assert len(task.train) == 10 * len(normal)
    # The dominant colour identifies the class. With labels, 0 is the class that was named first.
    colours = task.train[:, 10, 10].argmax(-1)
    first = {"red": 0, "blue": 2, "2": 2}[normal[0]]
    assert set(colours[task.train_labels == 0]) == ({first} if labelled or len(normal) == 1 else {0, 2})
    anomalies = [is_anomaly for _, is_anomaly, *_ in task.test.as_numpy_iterator()]
    assert sum(anomalies) == 12 - 4 * len(normal)


def test_takes_anomalies_from_another_dataset(tiny_dataset):
    config = DataConfig(dataset="tiny_images", normal=("all",), labelled=True, anomaly_dataset="digits")
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
def test_refuses_wrong_classes(tiny_dataset, normal, message):
    with pytest.raises(UsageError, match=message):
        build_task(DataConfig(dataset="tiny_images", normal=normal), tiny_dataset)


@pytest.mark.parametrize(
    ("names", "normal", "expected"),
    [
        (("5", "7", "9"), ("5",), [0]),
        (("5", "7", "9"), ("9", "7"), [2, 1]),
        (("5", "7", "9"), ("1",), "Possible: 5, 7, 9 or all. Received: 1"),
        (("0", "2", "bad"), ("1",), "Possible: 0, 2, bad or all. Received: 1"),
        (("1", "0"), ("1",), [0]),
        (("a", "b"), ("1",), [1]),
        (("a", "b"), ("2",), "Possible: 0 a, 1 b or all. Received: 2"),
    ],
)
def test_a_number_means_a_name_where_classes_are_named_by_numbers(names, normal, expected):
    source = Source("numbers", names, (16, 16, 3))
    if isinstance(expected, list):
        assert parse_classes(normal, source) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            parse_classes(normal, source)


def test_all_means_every_class(tiny_dataset):
    assert parse_classes(("all",), load_source("tiny_images", tiny_dataset)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("configured", "shape", "size", "detail"),
    [
        ((0, 0), (32, 32, 3), 32, 32),
        ((0, 0), (8, 8, 1), 16, 16),
        ((0, 0), (300, 500, 3), 224, 256),
        ((0, 0), (240, 200, 3), 224, 240),
        ((0, 0), (None, None, 3), 224, 224),
        ((0, 0), (20, 48, 3), 48, 48),
        ((64, 0), (32, 32, 3), 64, 32),
        ((64, 512), (300, 500, 3), 64, 512),
        ((0, 64), (300, 500, 3), 224, 64),
    ],
)
def test_uses_the_configured_sizes_or_those_of_the_images_within_limits(configured, shape, size, detail):
    config = DataConfig(image_size=configured[0], detail_size=configured[1])
    assert choose_sizes(config, "image", shape) == (size, size)  # detail_size has no effect
    for score in ("local", "both"):
        assert choose_sizes(config, score, shape) == (size, detail)


@pytest.mark.parametrize(
    ("sides", "configured", "expected"),
    [
        ([(20, 18)], (0, 0), (20, 20)),
        ([(20, 18), (30, 50), (17, 17)], (0, 0), (50, 50)),
        ([(8, 8)], (0, 0), (16, 16)),
        ([(20, 18)], (40, 0), (40, 20)),
        ([(20, 18)], (0, 64), (20, 64)),
        ([], (0, 0), (224, 224)),
    ],
)
def test_looks_at_the_first_images_where_their_sizes_are_unknown(sides, configured, expected):
    images = tf.data.Dataset.from_generator(
        lambda: (np.zeros((*side, 3), np.uint8) for side in sides),
        output_signature=tf.TensorSpec([None, None, 3], tf.uint8),
    )
    config = DataConfig(image_size=configured[0], detail_size=configured[1])
    assert choose_sizes(config, "both", (None, None, 3), images) == expected


def test_a_texture_of_a_few_pixels_is_refused():
    with pytest.raises(UsageError, match="detail_size must be 0 or at least 16. Received: 8"):
        choose_sizes(DataConfig(detail_size=8), "local", (32, 32, 3))


@pytest.mark.parametrize(("score", "stored"), [("image", 20), ("local", 40), ("both", 40)])
def test_stores_images_at_the_size_that_the_score_needs(score, stored, tiny_dataset):
    config = DataConfig(dataset="tiny_images", normal=("0",), image_size=20, detail_size=40)
    task = build_task(config, tiny_dataset, score=score)
    assert (task.image_size, task.detail_size) == (20, stored)
    assert task.train.shape[1:] == (stored, stored, 3)
    assert task.test.element_spec[0].shape == (stored, stored, 3)


@pytest.mark.parametrize(("score", "warned"), [("image", True), ("local", False), ("both", False)])
def test_warns_of_lost_detail_if_only_the_network_sees_the_images(score, warned, folder_copy, library_log, rng):
    from PIL import Image

    for path in (folder_copy / "train" / "good").glob("*.png"):
        if path.is_file() and not path.name.startswith("."):
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
    build_task(DataConfig(dataset=str(folder_copy), normal=("good",), image_size=16), score=score)
    messages = [message for message in library_log.messages if "left out" not in message and " has " not in message]
    assert ["Resizing to 16x16 pixels discards" in message for message in messages] == [True] * warned


def test_reads_training_images_in_the_same_order_every_time(tiny_dataset):
    config = DataConfig(dataset="tiny_images", normal=("0",))
    first, second = (build_task(config, tiny_dataset).train for _ in range(2))
    np.testing.assert_array_equal(first, second)


# Folders of images


@pytest.mark.parametrize("normal", ["good", "1"])
def test_names_the_test_images_of_a_folder_by_their_paths(image_folder, normal):
    task = build_task(DataConfig(dataset=str(image_folder), normal=(normal,)))
    assert task.train.shape == (8, 24, 24, 3)  # the longer side of the first image
    test = [row[1:] for row in task.test.as_numpy_iterator()]
    assert [(bool(is_anomaly), name.decode(), class_name) for is_anomaly, name, class_name in test] == [
        (True, "test/cut/0/9.png", b"cut"),
        (True, "test/cut/ü, 1.jpg", b"cut"),
        *((False, f"test/good/{index}.png", b"good") for index in range(3)),
    ]


def test_prepares_the_images_of_a_folder_like_all_others(image_folder):
    task = build_task(DataConfig(dataset=str(image_folder), normal=("good",), image_size=30))
    decoded = load_source(str(image_folder)).read("train", [1])
    for prepared, (image, _) in zip(task.train, decoded, strict=True):
        np.testing.assert_array_equal(prepared, views.prepare(image[None], 30)[0])


def test_a_folder_of_anomalies_needs_no_training_images(image_folder, folder_copy):
    shutil.rmtree(folder_copy / "train")
    config = DataConfig(dataset=str(image_folder), normal=("all",), anomaly_dataset=str(folder_copy))
    with pytest.raises(UsageError, match="Possible for normal: 1 good. Received: 0 cut"):
        build_task(config)
    task = build_task(dataclasses.replace(config, normal=("good",)))
    rows = {name.decode(): bool(is_anomaly) for _, is_anomaly, name, _ in task.test.as_numpy_iterator()}
    assert len(rows) == 10
    assert rows["test/good/0.png"] is False
    assert rows[f"{folder_copy}/test/good/0.png"] is True


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("test/good", {}, r"no normal test images \(good\)"),
        ("train", {}, "The dataset has no train images"),
        (None, {"normal": ("0",)}, "no train images of this class. Possible for normal: 1 good. Received: 0 cut"),
        (None, {"normal": ("purple",)}, "Possible: 0 cut, 1 good or all"),
    ],
)
def test_refuses_a_folder_without_what_the_task_needs(folder_copy, missing, options, message):
    if missing:
        shutil.rmtree(folder_copy / missing)
    with pytest.raises(UsageError, match=message):
        build_task(DataConfig(**{"dataset": str(folder_copy), "normal": ("good",), **options}))


def test_a_folder_needs_no_anomalies(image_folder, folder_copy):
    shutil.rmtree(folder_copy / "test" / "cut")
    config = DataConfig(dataset=str(folder_copy), normal=("good",))
    task = build_task(config)
    assert not task.has_anomalies
    assert [bool(is_anomaly) for _, is_anomaly, *_ in task.test.as_numpy_iterator()] == [False] * 3
    assert task.train_names[:2] == ("train/good/0.png", "train/good/1.JPG")
    task = build_task(dataclasses.replace(config, anomaly_dataset=str(image_folder)))
    assert (len(task.train), task.has_anomalies) == (8, True)
    shutil.rmtree(folder_copy / "test")
    task = build_task(config)
    assert (len(task.train), task.test, task.has_anomalies) == (8, None, False)


def test_a_flat_folder_gives_normal_test_images_to_anomalies_from_elsewhere(image_folder):
    config = DataConfig(dataset=str(image_folder / "train" / "good"), normal=("0",))
    task = build_task(config)
    assert (len(task.train), task.test, task.class_names) == (8, None, ("good",))
    task = build_task(dataclasses.replace(config, anomaly_dataset=str(image_folder / "test" / "cut")))
    assert len(task.train) == 6
    tested = [(bool(is_anomaly), name.decode()) for _, is_anomaly, name, _ in task.test.as_numpy_iterator()]
    assert [is_anomaly for is_anomaly, _ in tested] == [False, False, True, True]
    assert {name for _, name in tested[:2]} | set(task.train_names) == {
        *(f"{index}.{ending}" for index, ending in enumerate(("png", "JPG", "bmp", "gif", "jpeg", "PNG"))),
        "deep er/6.png",
        "deep er/7.png",
    }


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (["train/good/3.gif"], "train/good/3.gif is a GIF that cannot be decoded.*kind. At most 0.01 of the"),
        (["test/good/1.png", "test/cut/0/9.png"], r"test/cut/0/9.png is a PNG.*\(and 1 more file cannot be read\)"),
        (
            ["train/good/2.bmp", "test/good/1.png", "test/cut/0/9.png"],
            r"test/cut/0/9.png is a PNG.*\(and 1 more file cannot be",  # the test is checked first
        ),
    ],
)
def test_names_damaged_files_before_the_training(folder_copy, damaged, message):
    for name in damaged:
        (folder_copy / name).write_bytes((folder_copy / name).read_bytes()[:50])
    with pytest.raises(UsageError, match=message) as error:
        build_task(DataConfig(dataset=str(folder_copy), normal=("good",)))
    assert "\n" not in str(error.value)


def test_leaves_out_a_few_unreadable_images_by_name(folder_copy, library_log):
    config = DataConfig(dataset=str(folder_copy), normal=("good",), max_unreadable=0.5)
    whole = build_task(config)
    tested = [row[2] for row in whole.test.as_numpy_iterator()]
    for name in ("train/good/2.bmp", "test/cut/0/9.png"):
        (folder_copy / name).write_bytes((folder_copy / name).read_bytes()[:50])
    (folder_copy / "train/good/4.jpeg").write_bytes(damaged_jpeg())
    library_log.clear()
    task = build_task(config)
    left_out = [message for message in library_log.messages if message.startswith(f"  {folder_copy}")]
    names = ["test/cut/0/9.png", "train/good/2.bmp", "train/good/4.jpeg"]
    assert [message.split()[0][len(str(folder_copy)) + 1 :] for message in left_out] == names
    assert "2 of 8 images cannot be read and are left out:" in library_log.messages
    gone = [name in ("train/good/2.bmp", "train/good/4.jpeg") for name in whole.train_names]
    assert sum(gone) == 2
    np.testing.assert_array_equal(task.train, whole.train[~np.array(gone)])
    tested.remove(b"test/cut/0/9.png")
    assert [row[2] for row in task.test.as_numpy_iterator()] == tested


@pytest.mark.parametrize("name", ["train/good/4.jpeg", "test/good/3.jpg"])
def test_names_a_jpeg_whose_inside_is_damaged(name, folder_copy, capfd):
    (folder_copy / name).write_bytes(damaged_jpeg())
    with pytest.raises(UsageError, match=f"{name} is a JPEG with damaged data"):
        build_task(DataConfig(dataset=str(folder_copy), normal=("good",)))
    assert "Corrupt" not in capfd.readouterr().err


@pytest.mark.parametrize(("contents", "message"), [(b"", "is empty"), (b"<svg/>", "is not an image of a known format")])
def test_names_a_file_with_the_wrong_ending(folder_copy, contents, message):
    (folder_copy / "train" / "good" / "0.png").write_bytes(contents)  # the first one, whose size is read, too
    with pytest.raises(UsageError, match=f"train/good/0.png {message}"):
        build_task(DataConfig(dataset=str(folder_copy), normal=("good",)))


def test_reports_progress(image_folder):
    descriptions = []

    def watch(batches, description):
        for batch in batches:
            descriptions.append(description)
            yield batch

    build_task(DataConfig(dataset=str(image_folder), normal=("good",)), watch=watch)
    assert set(descriptions) == {"Reading images"}


@pytest.mark.parametrize("cardinality", [tf.data.experimental.UNKNOWN_CARDINALITY, 150])
def test_reads_all_images_whether_their_number_is_known_or_not(cardinality, rng):
    """150 images are more than two batches."""
    images = rng.integers(0, 256, (150, 16, 16, 3), dtype=np.uint8)
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(150)))
    if cardinality != 150:
        dataset = dataset.filter(lambda *_: True)
    assert int(dataset.cardinality()) == cardinality
    found, labels = read_images(dataset, 16)
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(labels, np.arange(150))
    without_labels, no_labels = read_images(dataset.map(lambda image, _: image), 16)
    np.testing.assert_array_equal(without_labels, images)
    assert no_labels is None


@pytest.mark.parametrize("cardinality", [0, tf.data.experimental.UNKNOWN_CARDINALITY])
def test_refuses_an_empty_dataset(cardinality):
    dataset = tf.data.Dataset.from_tensor_slices(np.zeros((3, 16, 16, 3), np.uint8))
    dataset = dataset.take(0) if cardinality == 0 else dataset.filter(lambda _: False)
    assert int(dataset.cardinality()) == cardinality
    with pytest.raises(UsageError, match="no images.*empty dataset"):
        read_images(dataset, 16)
