"""Where pictures come from: scikit-learn's embedded digits, folders and TensorFlow Datasets."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mcl_tf.data import folders
from mcl_tf.errors import UsageError, one_line

_DOWNLOAD_RETRIES = 5  # some seconds; with the 10 of TensorFlow Datasets a missing network takes minutes to show
DIGITS_TRAIN = 1198  # The first two thirds train; the last third, written by other people, tests.


@dataclasses.dataclass(frozen=True)
class Source:
    """A labelled set of pictures in two splits.

    Attributes:
      name: the dataset's name.
      class_names: the name of every class number.
      picture_shape: (height, width, channels); None where pictures differ, the first picture's for a folder.
      read: (split, classes) -> `tf.data.Dataset` of (picture uint8 [h, w, c], class int64), always in the same
        order; split is "train" or "test"; classes, a list of numbers or None for all, selects pictures.
      folder: the folder behind it, if there is one; its files can be damaged, and have names.
    """

    name: str
    class_names: tuple[str, ...]
    picture_shape: tuple[int | None, int | None, int]
    read: Callable[..., tf.data.Dataset]
    folder: folders.Folder | None = None


def load_source(name: str, data_dir: str = "", splits=folders.SPLITS) -> Source:
    """Opens a dataset by name.

    Args:
      name: "digits", a folder (see `mcl_tf.data.folders`), or the name of an image-classification set of
        TensorFlow Datasets, which comes before a folder of that bare name.
      data_dir: where TensorFlow Datasets keeps its files; its own default if empty.
      splits: those that are asked for.

    Raises:
      UsageError: the name is unknown, the set is not one of labelled pictures, or it cannot be had.
    """
    if name == "digits":
        return _digits()
    if folders.is_folder(name):
        return _folder(name, splits)
    import tensorflow_datasets as tfds

    builder = _find_builder(tfds, name, data_dir)
    return _folder(name, splits) if builder is None else _tensorflow_datasets(tfds, builder, name, splits)


def _digits() -> Source:
    """The 1,797 digits that scikit-learn ships, 8x8 grey levels 0 to 16."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.round(data.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
    parts = {"train": slice(0, DIGITS_TRAIN), "test": slice(DIGITS_TRAIN, None)}

    def read(split, classes=None):
        x, y = pictures[parts[split]], data.target[parts[split]]
        keep = np.isin(y, classes) if classes is not None else slice(None)
        return tf.data.Dataset.from_tensor_slices((x[keep], y[keep].astype(np.int64)))

    return Source("digits", tuple(str(name) for name in data.target_names), (8, 8, 1), read)


def _folder(name: str, splits) -> Source:
    folder = folders.Folder(name, splits)
    return Source(name, folder.class_names, folder.picture_shape(), folder.read, folder)


def _tensorflow_datasets(tfds, builder, name: str, splits) -> Source:
    features = builder.info.features
    label = features["label"] if "label" in features else None
    if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
        raise UsageError(
            f"--dataset={name} is not a set of pictures with one class each. "
            f"Possible: sets whose features hold an image and a label. Received: {', '.join(features)}"
        )
    _prepare(builder)
    missing = set(splits) - set(builder.info.splits)
    if missing:
        raise UsageError(
            f"--dataset={name} has no {' and no '.join(sorted(missing))} split. "
            f"Received: {', '.join(builder.info.splits)}"
        )

    def read(split, classes=None):
        data = builder.as_dataset(
            split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1),  # one file after the other: a fixed order
        )
        data = data.map(lambda example: (example["image"], example["label"]))
        if classes is not None:
            wanted = tf.constant(classes, tf.int64)
            data = data.filter(lambda _, y: tf.reduce_any(y == wanted))
        decode = features["image"].decode_example
        data = data.map(lambda x, y: (decode(x), y), tf.data.AUTOTUNE, deterministic=True)
        return data.with_options(folders.UNTUNED)

    return Source(name, tuple(label.names), features["image"].shape, read)


def _find_builder(tfds, name, data_dir):
    """The builder of a dataset, prepared or not; None if there is none and the name is a folder's."""
    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except (ValueError, tfds.core.registered.DatasetNotFoundError):
        if os.path.isdir(name):
            return None
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=4) or ["digits", "cifar10", "cifar100", "mnist"]
        raise UsageError(
            "Unknown dataset. Possible: digits, a folder of pictures, or an image-classification set of "
            f"TensorFlow Datasets such as {', '.join(close)}. Received: {name}"
        ) from None


def _prepare(builder) -> None:
    """Downloads and prepares a dataset that is not there yet."""
    from tensorflow_datasets.core.download import downloader

    if builder.data_path.exists():
        return
    downloader.MAX_RETRIES = _DOWNLOAD_RETRIES
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # what failed is said once, below
    try:
        builder.download_and_prepare()
    except Exception as error:  # noqa: BLE001 - downloads fail in as many ways as there are hosts
        reason = one_line(error, 160)
        raise UsageError(
            f"TensorFlow Datasets could not prepare {builder.name} in {builder.data_path}: {reason}. "
            f"Prepare it where there is a network with `python -m tensorflow_datasets build {builder.name} "
            "--data_dir=DIR`, copy DIR here and pass --data_dir=DIR; or use --dataset=digits"
        ) from None
