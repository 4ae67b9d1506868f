"""Which picture plays which part."""

import numpy as np
import pytest

from mcl_tf.config import DataConfig
from mcl_tf.data.protocols import build_task, choose_size, parse_classes
from mcl_tf.data.sources import load_source
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
