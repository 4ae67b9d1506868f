"""Which picture plays which part: what is trained on, and what is told from what at the end.

One class (or several that count as one) against the dataset's other classes, labelled classes against the
others, or a whole dataset against another one.
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data import folders
from mcl_tf.data.sources import Source, load_source
from mcl_tf.errors import UsageError

_READ_AT_ONCE = 64  # pictures
MIN_SIZE, MAX_SIZE = 16, 224  # what a side is brought to when no image_size is asked for


def _unwatched(batches, what: str):
    del what
    return batches


@dataclasses.dataclass(frozen=True)
class Task:
    """The pictures of an experiment.

    Attributes:
      class_names: names of the classes that the model tells apart; one in one-class training.
      image_size: the network's input side in pixels.
      train: uint8 [n, s, s, 3], normal pictures of the train split.
      train_labels: int32 [n], numbers into `class_names`.
      test: (picture uint8 [s, s, 3], is_anomaly bool, id string, class name string), the whole test split.
    """

    class_names: tuple[str, ...]
    image_size: int
    train: np.ndarray
    train_labels: np.ndarray
    test: tf.data.Dataset


def choose_size(image_size: int, shape) -> int:
    """The input side: what was asked for, or the pictures' longer side, held between 16 and 224 pixels."""
    sides = [side or MAX_SIZE for side in shape[:2]]
    return image_size or int(np.clip(max(sides), MIN_SIZE, MAX_SIZE))


def parse_classes(names, source: Source) -> list[int]:
    """Class numbers for numbers or names; `all` is every class.

    Raises:
      UsageError: a name or number that the dataset does not have.
    """
    if tuple(names) == ("all",):
        return list(range(len(source.class_names)))
    chosen = []
    for name in names:
        if name in source.class_names:
            chosen.append(source.class_names.index(name))
        elif name.isdecimal() and int(name) < len(source.class_names):
            chosen.append(int(name))
        else:
            possible = ", ".join(f"{i} {c}" if str(i) != c else c for i, c in enumerate(source.class_names))
            raise UsageError(f"{source.name} has no such class. Possible: {possible} or all. Received: {name}")
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"A normal class is named twice. Received: {','.join(names)}")
    return chosen


def build_task(config: DataConfig, data_dir: str = "", watch=_unwatched) -> Task:
    """Reads the training pictures into memory and lays out the test split as a stream.

    Args:
      config: dataset and normal classes.
      data_dir: where TensorFlow Datasets keeps its files.
      watch: (batches, what happens) -> the batches, for a progress bar.

    Raises:
      UsageError: a class or dataset that does not exist, or a choice that leaves no anomalies to find; of a folder
        also a file that cannot be decoded, and a test split without normal pictures or without anomalies.
    """
    source = load_source(config.dataset, data_dir)
    normal = parse_classes(config.normal, source)
    if len(normal) == len(source.class_names) and not config.anomaly_dataset:
        raise UsageError(
            "Every class is normal, so that the test split holds no anomaly. Leave a class out of --normal "
            f"or name an --anomaly_dataset. Received: {','.join(config.normal)}"
        )
    size = choose_size(config.image_size, source.picture_shape)
    names = [source.class_names[c] for c in normal]
    groups = {c: i if config.labelled else 0 for i, c in enumerate(normal)}

    other = load_source(config.anomaly_dataset, data_dir, ("test",)) if config.anomaly_dataset else None
    _check_test_split(source, normal, other)
    read_folders = [part.folder for part in (source, other) if part is not None and part.folder is not None]
    with folders.silent_decoders() if read_folders else contextlib.nullcontext():
        pictures, labels = _read_training(source, normal, size, watch)
        for folder in read_folders:
            folder.check([("test", None)], watch)  # now, for it would end the run after its training
    labels = np.array([groups[int(label)] for label in labels], np.int32)
    test = _labelled_stream(source, size, normal)
    if other is not None:
        # Its pictures are anomalies whatever their class; the dataset's own other classes count as such too.
        test = test.concatenate(_labelled_stream(other, size, []))
    return Task(tuple(names) if config.labelled else ("+".join(names),), size, pictures, labels, test)


def _read_training(source: Source, normal, size: int, watch):
    data = source.read("train", normal)
    try:
        return read_pictures(data, size, watch)
    except tf.errors.OpError:
        if source.folder is not None:
            source.folder.check([("train", normal), ("test", None)], watch)
        raise


def _check_test_split(source: Source, normal, other: Source | None) -> None:
    """Refuses a folder that would leave figures of nothing; of other sets the classes are not known beforehand."""
    if source.folder is None:
        return
    is_normal = np.isin(source.folder.files["test"][1], normal)
    if not is_normal.any():
        missing = f"no normal pictures ({', '.join(source.class_names[c] for c in normal)})"
    elif is_normal.all() and other is None:
        missing = "no pictures of other classes, and there is no --anomaly_dataset"
    else:
        return
    raise UsageError(
        f"The test folder needs normal pictures and anomalies, to tell one from the other. Received: {missing} in "
        f"{source.name}/test"
    )


def _labelled_stream(source: Source, size: int, normal) -> tf.data.Dataset:
    """The test split as (picture, is_anomaly, id, class name)."""
    names, wanted = tf.constant(source.class_names), tf.constant(normal, tf.int64)
    # Within the other dataset, normal is nothing; there the same path may mean another file.
    prefix = "" if normal else f"{source.name}/"
    folder = source.folder
    paths = None if folder is None else tf.constant([prefix + path for path in folder.identifiers()])

    def describe(index, example):
        picture, label = example
        identifier = tf.strings.join([source.name, "/test/", tf.strings.as_string(index)])
        if paths is not None:
            identifier = paths[index]
        is_anomaly = ~tf.reduce_any(label == wanted)
        return views.prepare(picture[None], size)[0], is_anomaly, identifier, names[label]

    return source.read("test").enumerate().map(describe, tf.data.AUTOTUNE, deterministic=True)


def read_pictures(dataset: tf.data.Dataset, size: int, watch=_unwatched):
    """Reads (picture, class) or pictures alone into memory at the network's size.

    Args:
      dataset: elements uint8 [h, w, c] or (uint8 [h, w, c], int).
      size: side in pixels.
      watch: as of `build_task`.

    Returns:
      uint8 [n, size, size, 3] and int [n] or None.
    """

    def prepare(picture, *label):
        return (views.prepare(picture[None], size)[0], *label)

    prepared = dataset.map(prepare, tf.data.AUTOTUNE, deterministic=True)
    batches = watch(prepared.batch(_READ_AT_ONCE).as_numpy_iterator(), "Reading pictures")
    columns = _joined(batches, int(prepared.cardinality()))
    if not len(columns[0]):
        raise UsageError("There are no pictures. Received: an empty dataset")
    return columns[0], columns[1] if len(columns) > 1 else None


def _joined(batches, count: int) -> list[np.ndarray]:
    """The columns of batches; in place where their number is known, for joining takes as long as decoding JPEG."""
    if count < 0:
        parts = list(batches)
        return [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.zeros(0)]
    columns: list[np.ndarray] = [np.zeros(0)]
    filled = 0
    for batch in batches:
        if not filled:
            columns = [np.empty((count, *part.shape[1:]), part.dtype) for part in batch]
        for column, part in zip(columns, batch, strict=True):
            column[filled : filled + len(part)] = part
        filled += len(batch[0])
    return columns
