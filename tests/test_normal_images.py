import numpy as np
import pytest

import mcl_tf
from mcl_tf import normal_images
from mcl_tf.config import Config
from mcl_tf.normal_images import NormalImages, select_held_out

SIZE = 16


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def collect(images, labels=None, class_names=None, **options):
    return NormalImages.collect(images, labels, class_names, Config().replace(image_size=SIZE, **options))


@pytest.mark.parametrize("labels", [None, np.arange(40) % 2])
def test_every_image_is_trained_on_or_held_out(labels):
    images = noise(40)
    found = collect(images, labels)
    classes = np.zeros(40, int) if labels is None else labels
    held_out = select_held_out(classes, Config().replace(labelled=labels is not None))
    assert 0 < held_out.sum() < 40
    np.testing.assert_array_equal(found.trained, images[~held_out])
    np.testing.assert_array_equal(found.labels, classes[~held_out])
    np.testing.assert_array_equal(found.calibrating, images[held_out])
    assert (found.network_size, found.record) == (SIZE, None)
    assert found.class_names == (("0",) if labels is None else ("0", "1"))


def test_a_run_directory_needs_a_record(tmp_path):
    found = collect(noise(40), run_dir=str(tmp_path))
    assert found.record.count == 40


def test_equal_images_are_refused():
    with pytest.raises(mcl_tf.UsageError, match="must differ from each other. Received: 12 equal images"):
        collect(np.repeat(noise(1), 12, 0))


def test_classes_of_one_image_each_are_refused():
    with pytest.raises(mcl_tf.UsageError, match="at least two images, .* Received: 4 classes with one image each"):
        collect(noise(4), np.arange(4))


@pytest.mark.parametrize("constant", [True, False])
def test_warns_of_images_without_content(constant, library_log):
    images = noise(12)
    if constant:
        images[:] = images[:, :1, :1]
    collect(images)
    wanted = ["All 12 normal images are of a single colour each; there is little to learn."]
    assert library_log.messages == (wanted if constant else [])


@pytest.mark.parametrize(
    ("class_names", "expected"),
    [
        ({1: "blue", 0: "red"}, ("red", "blue")),
        ({np.int64(0): "red", np.int64(1): "blue", 7: "absent"}, ("red", "blue")),
        (("red", "blue"), ("red", "blue")),
        (None, ("0", "1")),
    ],
)
def test_class_names_may_be_a_dictionary(class_names, expected):
    assert normal_images._check_classes(np.array([0, 1, 1]), class_names) == expected


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        ({0: "red"}, r"class_names must have a name for every label. Received: none for \[1\]"),
        ({"red": 0, "blue": 1}, r"Received: none for \[0, 1\]"),
        ("ab", "class_names must be a list, or a dictionary by label. Received: 'ab'"),
        ({"red", "blue"}, "class_names must be a list, or a dictionary"),
        (["red"], "2 classes need as many names. Received: red"),
    ],
)
def test_other_class_names_are_refused(class_names, message):
    with pytest.raises(mcl_tf.UsageError, match=message):
        normal_images._check_classes(np.array([0, 1, 1]), class_names)
