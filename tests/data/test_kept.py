"""Datasets that stay in memory: every run has the images that it would have alone."""

import dataclasses

import numpy as np
import pytest

from mcl_tf.config import Config, DataConfig, RunConfig
from mcl_tf.data.kept import KeptSources
from mcl_tf.data.room import Room
from mcl_tf.data.sources import load_source
from mcl_tf.data.store import StoredImages
from mcl_tf.data.tasks import build_task
from mcl_tf.errors import UsageError


def assert_equal(task, expected):
    arrays = {"test": None, "train": None, "train_labels": None}
    assert dataclasses.replace(task, **arrays) == dataclasses.replace(expected, **arrays)
    np.testing.assert_array_equal(task.train, expected.train)
    np.testing.assert_array_equal(task.train_labels, expected.train_labels)
    rows, others = (list(part.test.as_numpy_iterator()) for part in (task, expected))
    assert [row[1:] for row in rows] == [row[1:] for row in others]
    np.testing.assert_array_equal([row[0] for row in rows], [row[0] for row in others])


@pytest.fixture
def configs(image_folder):
    """Configurations of runs on the same dataset, by name."""
    good, flat = str(image_folder), str(image_folder / "train" / "good")
    return {
        "digits": [DataConfig(normal=("3",)), DataConfig(normal=("8", "3"), labelled=True)],
        "tiny_images": [DataConfig(dataset="tiny_images", normal=(name,)) for name in ("blue", "red")],
        "folder": [DataConfig(dataset=good, normal=("good",), anomaly_dataset=flat)],
        "undivided": [DataConfig(dataset=flat, normal=("good",), anomaly_dataset="uniform", seed=s) for s in (0, 1)],
        "sizes": [DataConfig(normal=("3",), image_size=size) for size in (16, 20)],
    }


@pytest.mark.parametrize(
    ("name", "limit"),
    [("digits", None), ("tiny_images", None), ("folder", None), ("undivided", None), ("sizes", None), ("folder", 0)],
)
def test_a_run_has_the_images_that_it_has_alone(name, limit, configs, tiny_dataset, monkeypatch, tmp_path):
    run = RunConfig(memory_limit=limit, cache_dir=str(tmp_path))
    reads = []
    hold = Room.hold
    sources = KeptSources(Config(data=configs[name][0], run=run))
    for config in configs[name]:
        with monkeypatch.context() as patch:
            patch.setattr(Room, "hold", lambda *args: reads.append(args) or hold(*args))
            task = build_task(config, tiny_dataset, load=sources.load)
        assert_equal(task, build_task(config, tiny_dataset))
        assert isinstance(task.train, StoredImages) == (limit == 0)
    # Both splits, once each; the test of a flat folder is drawn from its only split, and every size is read by itself.
    assert len(reads) == {"folder": 3, "undivided": 1, "sizes": 4}.get(name, 2)


def test_a_damaged_file_of_any_class_is_named_before_the_first_run(folder_copy):
    path = folder_copy / "test" / "cut" / "0" / "9.png"
    path.write_bytes(path.read_bytes()[:50])
    sources = KeptSources()
    with pytest.raises(UsageError, match="test/cut/0/9.png is a PNG that cannot be decoded") as error:
        build_task(DataConfig(dataset=str(folder_copy), normal=("good",)), load=sources.load)
    assert sources.failure is error.value


def test_an_unknown_class_is_no_failure_of_the_images():
    sources = KeptSources()
    with pytest.raises(UsageError, match="no such class"):
        build_task(DataConfig(normal=("purple",)), load=sources.load)
    assert sources.failure is None


def test_classes_with_training_images(image_folder, tiny_dataset):
    assert KeptSources().load(str(image_folder)).train_classes() == [1]  # `cut` is for the test alone
    assert load_source("tiny_images", tiny_dataset).train_classes() == [0, 1, 2]
