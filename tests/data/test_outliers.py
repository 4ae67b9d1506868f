"""Datasets of anomalies: their names, and a task with several of them."""

import pytest

from mcl_tf.config import DataConfig
from mcl_tf.data.outliers import outlier_names
from mcl_tf.data.tasks import build_task
from mcl_tf.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("cifar100", ["cifar100"]),
        ("uniform, ~/parts", ["uniform", "/home/me/parts"]),
        ("a,b", ["a,b"]),  # a folder of this name
        ("uniform,,blobs", "must name datasets, separated by commas. Received: uniform,,blobs"),
        (",", "must name datasets"),
        ("uniform,blobs,uniform", "twice. Received: uniform,blobs,uniform"),
    ],
)
def test_names(text, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b").mkdir()
    if isinstance(expected, list):
        assert outlier_names(text) == expected
    else:
        with pytest.raises(UsageError, match=expected):
            outlier_names(text)


def test_the_parts_of_a_task_follow_each_other(tiny_dataset):
    config = DataConfig(dataset="tiny_images", normal=("red",), anomaly_dataset="digits,permuted")
    task = build_task(config, tiny_dataset)
    assert task.test_parts == (("tiny_images", 12), ("digits", 599), ("permuted", 4))
    rows = [(bool(row[1]), row[2].decode(), row[3].decode()) for row in task.test.as_numpy_iterator()]
    assert [is_anomaly for is_anomaly, *_ in rows[:12]] == [name != "red" for *_, name in rows[:12]]
    assert [is_anomaly for is_anomaly, *_ in rows[12:]] == [True] * 603
    assert [rows[12][1], *rows[-1][1:]] == ["digits/test/0", "permuted/test/3", "permuted"]


def test_an_unknown_set_is_refused_with_what_is_possible(tmp_path):
    with pytest.raises(UsageError, match="Possible: uniform, gaussian, blobs, permuted, interp, digits, .*: unifrom$"):
        build_task(DataConfig(anomaly_dataset="blobs,unifrom"), str(tmp_path))


def test_a_set_without_test_images_is_refused(image_folder, tmp_path):
    (tmp_path / "test").mkdir()
    with pytest.raises(UsageError, match="There are no images"):
        build_task(DataConfig(dataset=str(image_folder), normal=("good",), anomaly_dataset=str(tmp_path)))


def test_a_class_without_test_images_is_refused(monkeypatch):
    from mcl_tf.data import sources

    read = sources.DigitsSource.read

    def without_threes(self, split, classes=None):
        data = read(self, split, classes)
        return data if split == "train" else data.filter(lambda _, label: label != 3)

    monkeypatch.setattr(sources.DigitsSource, "read", without_threes)
    with pytest.raises(UsageError, match=r"no normal test images \(3\) in digits"):
        build_task(DataConfig(normal=("3",)))
