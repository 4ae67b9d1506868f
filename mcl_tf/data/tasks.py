"""Tasks: which images are trained on, and which are told apart at the end.

One class (or several that count as one) against the other classes of a dataset, labelled classes against the others, or
a whole dataset against other ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data.detail import SAMPLE, warn_of_lost_detail
from mcl_tf.data.folders import class_list, has_number_names
from mcl_tf.data.outliers import loader_of_outliers, open_outliers, outlier_names
from mcl_tf.data.room import Reading, Room, unwatched
from mcl_tf.data.source import Source
from mcl_tf.data.sources import load_source
from mcl_tf.errors import UsageError

MIN_SIZE, MAX_SIZE, MAX_DETAIL = 16, 224, 256  # limits of a side if none is given; of the network and of the texture


@dataclasses.dataclass(frozen=True)
class Task:
    """The images of an experiment.

    Attributes:
      class_names: names of the classes that the model distinguishes; one in one-class training.
      image_size: side of the network's input in pixels.
      detail_size: side s of the stored images in pixels.
      train: uint8 [n, s, s, 3], normal images of the train split, an array or `StoredImages`.
      train_labels: int32 [n], indices into `class_names`.
      test: dataset of (image uint8 [s, s, 3], is_anomaly bool, name string, class name string), the whole test split;
        None if there is no test image.
      has_anomalies: whether the test split has anomalies.
      train_names: strings [n], names of the training images; None if they have none.
      test_parts: (name of the dataset, number of images) of every part of the test split, in its order. All images of
        the second and every further part are anomalies.
    """

    class_names: tuple[str, ...]
    image_size: int
    detail_size: int
    train: np.ndarray
    train_labels: np.ndarray
    test: tf.data.Dataset | None
    has_anomalies: bool = True
    train_names: tuple[str, ...] | None = None
    test_parts: tuple[tuple[str, int], ...] = ()


def choose_sizes(config: DataConfig, score: str, shape, images: tf.data.Dataset | None = None) -> tuple[int, int]:
    """Return the side of the network's input, and the side that images are stored with, which the texture sees.

    Args:
      config: `image_size` and `detail_size`; 0 for the longer side of the images within limits.
      score: "image", "local" or "both"; without a local score, images are stored with the side of the network's input.
      shape: (height, width, ...) of the images, None where unknown.
      images: the images; the largest of the first ones counts where the shape is unknown.

    Raises:
      UsageError: `detail_size` is too small for a texture.
    """
    if 0 < config.detail_size < MIN_SIZE:
        raise UsageError(f"detail_size must be 0 or at least {MIN_SIZE}. Received: {config.detail_size}")
    chosen = config.image_size and (score == "image" or config.detail_size)
    if None in shape[:2] and images is not None and not chosen:
        shape = [max(sides, default=None) for sides in zip(*_first_sides(images), strict=True)] or shape
    side = max(side or MAX_SIZE for side in shape[:2])
    network = config.image_size or int(np.clip(side, MIN_SIZE, MAX_SIZE))
    if score == "image":
        return network, network
    return network, config.detail_size or int(np.clip(side, MIN_SIZE, MAX_DETAIL))


def _first_sides(images: tf.data.Dataset) -> list[tuple[int, int]]:
    """Return height and width of the first images; of none if one cannot be decoded, which is reported later."""
    try:
        return [image.shape[:2] for image in images.take(SAMPLE).as_numpy_iterator()]
    except tf.errors.OpError:
        return []


def parse_classes(names, source: Source) -> list[int]:
    """Return the class numbers for numbers or names; `all` means every class.

    Where a class of the dataset is named by a number, only names count.

    Args:
      names: strings.
      source: the dataset.

    Raises:
      UsageError: the dataset does not have a class, or a class is named twice.
    """
    if tuple(names) == ("all",):
        return list(range(len(source.class_names)))
    chosen = []
    for name in names:
        if name in source.class_names:
            chosen.append(source.class_names.index(name))
        elif name.isdecimal() and int(name) < len(source.class_names) and not has_number_names(source.class_names):
            chosen.append(int(name))
        else:
            possible = class_list(source.class_names, range(len(source.class_names)))
            raise UsageError(f"{source.name} has no such class. Possible: {possible} or all. Received: {name}")
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"A normal class is named twice. Received: {','.join(names)}")
    return chosen


def build_task(
    config: DataConfig, data_dir="", watch=unwatched, score="image", load=load_source, room: Room | None = None
) -> Task:
    """Read the training images and prepare the test split as a stream.

    Args:
      config: dataset and normal classes.
      data_dir: where TensorFlow Datasets keeps its files.
      watch: function (batches, description) -> batches, for a progress bar.
      score: "image", "local" or "both", see `choose_sizes`.
      load: opens a dataset, see `load_source`.
      room: holds the training images, and the test images of folders; by default with the limits of `RunConfig`.

    Raises:
      UsageError: a class or dataset does not exist, there would be no anomalies to find, or the test has anomalies and
        no normal images. A folder may have no test images at all; one of its files cannot be decoded.
    """
    outliers = outlier_names(config.anomaly_dataset)
    source = load(config.dataset, data_dir)
    normal = parse_classes(config.normal, source)
    source.divide(normal, config.seed, bool(outliers))
    if source.test_classes() is None and len(normal) == len(source.class_names) and not outliers:
        raise UsageError(
            "Every class is normal, so that the test split has no anomaly. Leave a class out of normal "
            f"or name an anomaly_dataset. Received: {','.join(config.normal)}"
        )
    train = source.read("train", normal).map(lambda image, _: image)
    with source.heard():  # a damaged image is reported later, by name
        image_size, size = choose_sizes(config, score, source.image_shape, train)
    reading = (size, config.resize, room or Room(), watch, config.max_unreadable)
    if source.files("test"):  # a damaged file would otherwise end the run after its training
        source.hold("test", None, *reading)
    others = open_outliers(outliers, source, normal, size, config, loader_of_outliers(load, data_dir))
    for other in others:
        if other.files("test"):
            other.hold("test", None, *reading)
    tested = _check_test_split(source, normal, bool(others))
    images, classes = source.hold("train", normal, *reading)
    if score == "image":
        with source.heard():
            sample = source.read("train", normal).take(SAMPLE).as_numpy_iterator()
            warn_of_lost_detail((image for image, _ in sample), size)
    groups = {c: i if config.labelled else 0 for i, c in enumerate(normal)}
    test, parts = _read_test(source, normal, others, size, config.resize) if "normal" in tested else (None, ())
    names = tuple(source.class_names[c] for c in normal)
    files = source.names("train", normal)
    return Task(
        class_names=names if config.labelled else ("+".join(names),),
        image_size=image_size,
        detail_size=size,
        train=images,
        train_labels=np.array([groups[int(number)] for number in classes], np.int32),
        test=test,
        has_anomalies="anomalous" in tested,
        train_names=None if files is None else tuple(files),
        test_parts=parts,
    )


def _read_test(source: Source, normal, others, size: int, resize: str):
    """Return the test split of a task as a stream, and its parts, see `Task`."""
    stream, parts = _test_stream(source, size, resize, normal), [(source.name, _count(source.read("test")))]
    for other in others:
        # All images of another dataset are anomalies, in addition to those of the other classes.
        stream = stream.concatenate(_test_stream(other, size, resize, []))
        parts.append((other.name, _count(other.read("test"))))
        if not parts[-1][1]:
            raise UsageError(f"anomaly_dataset must have test images. Received: none in {other.name}")
    return stream, tuple(parts)


def _count(dataset: tf.data.Dataset) -> int:
    count = int(dataset.cardinality())
    return sum(1 for _ in dataset) if count < 0 else count


def _check_test_split(source: Source, normal, has_others: bool) -> set[str]:
    """Return which kinds of images, "normal" and "anomalous", the test split has; both if its classes are unknown.

    Raises:
      UsageError: it has anomalies, but no normal images.
    """
    classes = source.test_classes()
    if classes is None:
        normal_test = source.read("test", normal).take(1)
        found = {"anomalous", *("normal" for _ in normal_test)}
    else:
        is_normal = np.isin(classes, normal)
        found = {name for name, count in (("normal", is_normal.sum()), ("anomalous", (~is_normal).sum())) if count}
    if has_others:
        found.add("anomalous")
    if found == {"anomalous"}:
        raise UsageError(
            "Anomalies for the test need normal images beside them, which are not trained on. Received: no normal test "
            f"images ({', '.join(source.class_names[c] for c in normal)}) in {source.name}"
        )
    return found


def _test_stream(source: Source, size: int, resize: str, normal) -> tf.data.Dataset:
    """Return the test split as (image, is_anomaly, name, class name)."""
    class_names, wanted = tf.constant(source.class_names), tf.constant(normal, tf.int64)
    names = source.names("test")
    if names is not None:
        # A dataset of anomalies has no normal classes; the same path could mean a file of either dataset.
        names = tf.constant(names if normal else [f"{source.name}/{name}" for name in names])

    def describe(index, example):
        image, label = example
        name = tf.strings.join([source.name, "/test/", tf.strings.as_string(index)])
        if names is not None:
            name = names[index]
        is_anomaly = ~tf.reduce_any(label == wanted)
        return image, is_anomaly, name, class_names[label]

    return source.prepared("test", None, size, resize).enumerate().map(describe, tf.data.AUTOTUNE, deterministic=True)


def read_images(dataset: tf.data.Dataset, size: int, watch=unwatched, resize: str = DataConfig.resize, room=None):
    """Read images, alone or with labels, at the network's size.

    Args:
      dataset: elements uint8 [h, w, c] or (uint8 [h, w, c], int).
      size: side in pixels.
      watch: see `build_task`.
      resize: what becomes of images that are not square, see `views.prepare`.
      room: holds them; by default with the limits of `RunConfig`.

    Returns:
      uint8 [n, size, size, 3], an array or `StoredImages`, and int64 [n] or None.

    Raises:
      UsageError: the dataset is empty.
    """

    def prepare(image, *label):
        image = views.prepare(image[None], size, resize)[0]
        return (image, *label) if label else image

    reading = Reading(dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True))
    images, labels = (room or Room()).hold(reading, watch)
    if not len(images):
        raise UsageError("There are no images. Received: an empty dataset")
    return images, labels
