"""Images from a caller: what is accepted, the held-out share, and batches for scoring."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mcl_tf import views
from mcl_tf.config import DataConfig, RunConfig
from mcl_tf.data import arrays
from mcl_tf.data.room import Room
from mcl_tf.data.store import StoredImages
from mcl_tf.errors import UsageError


def noise(*shape, seed=0):
    """Seeded random images: uint8 of the given shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_accepts_arrays_of_images(channels):
    images = noise(2, 5, 4, channels)
    assert arrays.as_source(images) is images
    np.testing.assert_array_equal(arrays.as_source(list(images)), images)


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (np.zeros((2, 5, 4, 2), np.uint8), r"uint8 \[2, 5, 4, 2\]"),
        (np.zeros((5, 4, 3), np.uint8), r"uint8 \[5, 4, 3\]"),
        (np.zeros((2, 0, 4, 3), np.uint8), r"uint8 \[2, 0, 4, 3\]"),
        (np.zeros((2, 5, 4, 3), np.float32), r"float32 \[2, 5, 4, 3\]"),
        ([np.zeros((5, 4, 3), np.uint8), np.zeros((6, 4, 2), np.uint8)], r"uint8 \[1, 6, 4, 2\]"),
        ([], r"float64 \[0\]"),
    ],
)
def test_refuses_what_are_not_images(images, received):
    with pytest.raises(UsageError, match=f"c = 1, 3 or 4.*Received: {received}"):
        arrays.as_source(images)


def test_takes_images_of_several_sizes_and_files(tmp_path):
    images = [noise(5, 4, 3), noise(7, 9, 1), noise(6, 6, 4)]
    colours = [images[0], np.repeat(images[1], 3, -1), images[2][..., :3]]
    for index, image in enumerate(colours):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    expected = np.concatenate([views.prepare(image[None], 16) for image in colours])
    for source in (images, paths, [str(path) for path in paths]):
        source = arrays.as_source(source)
        (found,) = arrays.scoring_batches(source, 3, 16)
        np.testing.assert_array_equal(found, expected)
        assert arrays.sides(source) == [(5, 4), (7, 9), (6, 6)]
    assert len(list(arrays.as_source(str(paths[0])))) == 1
    collected, labels, size = arrays.collect(paths, np.array([0, 1, 0]), DataConfig(image_size=16))
    np.testing.assert_array_equal(collected, arrays.collect(images, None, DataConfig(image_size=16))[0])
    assert (labels.tolist(), size) == ([0, 1, 0], 16)


def test_names_a_file_that_is_no_image(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"bad")
    for path, message in (
        (tmp_path / "bad.png", "is not an image of a known format"),
        ("nowhere.png", "cannot be read"),
    ):
        for use in (
            lambda path=path: arrays.collect([path], None, DataConfig()),
            lambda path=path: list(arrays.scoring_batches([path], 3, 16)),
        ):
            with pytest.raises(UsageError, match=f"{path} {message}"):
                use()


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_collects_datasets_like_arrays(batch_size, labelled, tmp_path):
    images, labels = noise(7, 20, 18, 1), np.arange(7) % 2 if labelled else None
    expected, expected_labels, size = arrays.collect(images, labels, DataConfig())
    assert size == 20
    assert expected.shape == (7, 20, 20, 3)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels) if labelled else images)
    dataset = dataset.batch(batch_size) if batch_size else dataset
    for room in (None, Room(RunConfig(memory_limit=0, cache_dir=str(tmp_path)))):
        found, found_labels, size = arrays.collect(dataset, None, DataConfig(), room=room)
        assert size == 20
        assert isinstance(found, StoredImages) == (room is not None)
        np.testing.assert_array_equal(found, expected)
    assert (found_labels is None) == (expected_labels is None) == (not labelled)
    if labelled:
        np.testing.assert_array_equal(found_labels, expected_labels)


@pytest.mark.parametrize("image_size", [0, 16, 24])
def test_collects_at_the_size_of_the_network(image_size):
    images = noise(300, 9, 17, 3)  # more than one batch of 256
    found, labels, size = arrays.collect(images, None, DataConfig(image_size=image_size))
    np.testing.assert_array_equal(found, views.prepare(images, image_size or 17))
    assert (labels, size) == (None, image_size or 17)


@pytest.mark.parametrize("form", ["array", "dataset"])
@pytest.mark.parametrize("score", ["local", "both"])
def test_collects_at_the_size_of_the_texture(score, form):
    """The network's input is smaller than what is stored."""
    images = noise(3, 30, 40, 3)
    source = images if form == "array" else tf.data.Dataset.from_tensor_slices(images)
    config = DataConfig(image_size=16)
    found, _, size = arrays.collect(source, None, config, score)
    np.testing.assert_array_equal(found, views.prepare(images, 40))
    assert size == 16
    smaller, _, _ = arrays.collect(source, None, dataclasses.replace(config, detail_size=24), score)
    np.testing.assert_array_equal(smaller, views.prepare(images, 24))


@pytest.mark.parametrize("form", ["array", "single", "batched", "labelled"])
@pytest.mark.parametrize(("score", "size", "warned"), [("image", 16, True), ("image", 32, False), ("both", 16, False)])
def test_warns_of_lost_detail_if_only_the_network_sees_the_images(score, size, warned, form, library_log):
    """Averages of 2x2 pixels of noise keep a quarter of its variance."""
    images = noise(20, 32, 32, 3)
    source = images
    if form != "array":
        source = tf.data.Dataset.from_tensor_slices((images, np.arange(20)) if form == "labelled" else images)
        source = source.batch(7) if form == "batched" else source
    found, _, _ = arrays.collect(source, None, DataConfig(image_size=size), score)
    assert len(found) == 20  # looking at the first images consumes none
    assert ["Resizing to 16x16 pixels discards" in message for message in library_log.messages] == [True] * warned


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (noise(1, 16, 16, 3), None, "at least two normal images. Received: 1"),
        (noise(0, 16, 16, 3), None, "at least two normal images. Received: 0"),
        (noise(3, 16, 16, 3), [0, 1], r"3 images need as many integer labels. Received: int\d+ \(2,\)"),
        (noise(3, 16, 16, 3), [0.0, 1.0, 0.0], "as many integer labels. Received: float64"),
        (tf.data.Dataset.from_tensor_slices(noise(3, 16, 16, 3)), [0, 1, 0], "Received: labels too"),
        (
            tf.data.Dataset.from_tensor_slices((noise(3, 16, 16, 3), [0.5, 1.0, 2.0])),
            None,
            "must be an integer label",
        ),
        (tf.data.Dataset.from_tensor_slices(noise(3, 16)), None, "Received: elements"),
        (tf.data.Dataset.from_tensor_slices({"image": noise(3, 16, 16, 3)}), None, "Received: elements"),
    ],
)
def test_refuses_images_or_labels_that_cannot_be_collected(images, labels, message):
    with pytest.raises(UsageError, match=message):
        arrays.collect(images, labels, DataConfig())


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ((40,), 0.1, (4,)),
        ((40, 10), 0.5, (20, 5)),
        ((3, 1), 0.5, (2, 0)),  # a class keeps at least one image
        ((4, 3), 0.01, (1, 1)),  # at least one of every class that has two
    ],
)
def test_holds_out_a_share_of_every_class(counts, fraction, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    config = DataConfig(calibration_fraction=fraction)
    held_out = arrays.hold_out(labels, config)
    assert held_out.dtype == bool
    assert tuple(np.bincount(labels[held_out], minlength=len(counts))) == expected
    np.testing.assert_array_equal(arrays.hold_out(labels, config), held_out)


@pytest.mark.parametrize(
    ("counts", "needed", "expected"),
    [
        ((200,), 19, (20,)),  # the share of 0.1 is enough
        ((100,), 19, (19,)),
        ((38,), 19, (19,)),
        ((30,), 19, (15,)),  # no more than half
        ((31,), 19, (15,)),
        ((2,), 19, (1,)),
        ((30, 70), 19, (6, 14)),  # in proportion, rounded up: 5.7 and 13.3
        ((40, 1), 19, (19, 0)),
        ((120,), 99, (60,)),
        ((200,), 1, (20,)),
    ],
)
def test_holds_out_as_many_as_the_pass_rate_needs(counts, needed, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    held_out = arrays.hold_out(labels, DataConfig(calibration_fraction=0.1), needed)
    assert tuple(np.bincount(labels[held_out], minlength=len(counts))) == expected


def test_holds_out_other_images_with_another_seed():
    first, second = (arrays.hold_out(np.zeros(50, int), DataConfig(seed=seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("form", ["array", "single", "batched", "labelled"])
def test_yields_batches_for_scoring_in_order(form):
    images = noise(7, 20, 18, 4)
    source = images
    if form != "array":
        source = tf.data.Dataset.from_tensor_slices((images, np.arange(7)) if form == "labelled" else images)
        source = source.batch(5) if form == "batched" else source
    batches = [np.asarray(batch) for batch in arrays.scoring_batches(source, 3, 16)]
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), views.prepare(images, 16))


@pytest.mark.parametrize("form", ["single", "batched", "labelled", "generated", "mapped"])
def test_refuses_a_dataset_without_end(form):
    images = noise(4, 16, 16, 3)
    dataset = tf.data.Dataset.from_tensor_slices((images, np.arange(4)) if form == "labelled" else images)
    if form == "generated":
        signature = tf.TensorSpec([None, None, 3], tf.uint8)
        dataset = tf.data.Dataset.from_generator(lambda: iter(images), output_signature=signature)
    dataset = dataset.repeat()
    dataset = dataset.batch(3) if form == "batched" else dataset.map(lambda *x: x[0]) if form == "mapped" else dataset
    for use in (
        lambda: arrays.collect(dataset, None, DataConfig()),
        lambda: list(arrays.scoring_batches(dataset, 3, 16)),
    ):
        with pytest.raises(UsageError, match="A dataset must end. Received: one that repeats without end"):
            use()


def test_the_size_follows_the_images_of_a_generator():
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(noise(3, 20, 18, 3)), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    )
    images, _, size = arrays.collect(dataset, None, DataConfig())
    assert (images.shape, size) == ((3, 20, 20, 3), 20)


def test_yields_no_batch_without_images():
    assert list(arrays.scoring_batches(noise(0, 16, 16, 3), 3, 16)) == []
