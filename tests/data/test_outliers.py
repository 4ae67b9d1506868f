"""Datasets of anomalies: their names, and a task with several of them."""

import numpy as np
import pytest
from PIL import Image

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


def test_synthetic_images_have_no_size_of_their_own():
    with pytest.raises(UsageError, match=r"never resized\. Received: blobs\+unresized$"):
        build_task(DataConfig(anomaly_dataset="blobs+unresized"))


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


@pytest.mark.parametrize("side", [40, 10])
def test_images_keep_their_resolution(side, tiny_dataset, tmp_path, rng):
    """The centre of a larger image; a smaller one is mirrored beyond its edges."""
    pixels = rng.integers(0, 256, [2, side, side, 3], np.uint8)
    for index, image in enumerate(pixels):
        folder = tmp_path / "odd" / "test" / "bad"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    name = f"{tmp_path / 'odd'}+unresized"
    config = DataConfig(dataset="tiny_images", normal=("red",), image_size=16, anomaly_dataset=name)
    task = build_task(config, tiny_dataset)
    first = (side - 16) // 2
    around = [(max(-first, 0), max(16 - side + first, 0))] * 2
    expected = [np.pad(image, [*around, (0, 0)], "symmetric") for image in pixels]
    start = max(first, 0)
    shown = [(row[0], row[2].decode()) for row in task.test.as_numpy_iterator()][-2:]
    for (image, shown_name), own, index in zip(shown, expected, range(2), strict=True):
        np.testing.assert_array_equal(image, own[start : start + 16, start : start + 16])
        assert shown_name == f"{name}/test/bad/{index}.png"
    assert task.test_parts[-1] == (name, 2)
