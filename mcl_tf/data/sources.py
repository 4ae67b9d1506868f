"""Sources of images: scikit-learn's embedded digits, folders and TensorFlow Datasets."""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import os

import numpy as np
import tensorflow as tf

from mcl_tf.data import folders, image_files, jpeg_warnings, paths, store
from mcl_tf.data.held_files import HeldFiles
from mcl_tf.data.layouts import SPLITS
from mcl_tf.data.room import Room, unwatched
from mcl_tf.data.source import Source
from mcl_tf.errors import UsageError, one_line

_DOWNLOAD_RETRIES = 5  # takes seconds; with the 10 of TensorFlow Datasets, a missing network takes minutes to show
DIGITS_TRAIN = 1198  # The first two thirds are for training; the last third, written by other people, for the test.


class DigitsSource(Source):
    """The 1,797 digits that scikit-learn ships: 8x8 pixels, grey levels 0 to 16."""

    def __init__(self):
        from sklearn.datasets import load_digits

        data = load_digits()
        super().__init__("digits", map(str, data.target_names), (8, 8, 1))
        images = np.round(data.images * (255.0 / 16.0)).astype(np.uint8)[..., None]
        parts = {"train": slice(0, DIGITS_TRAIN), "test": slice(DIGITS_TRAIN, None)}
        self._splits = {split: (images[part], data.target[part].astype(np.int64)) for split, part in parts.items()}

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """See `Source.read`."""
        images, labels = self._splits[split]
        keep = np.isin(labels, classes) if classes is not None else slice(None)
        return tf.data.Dataset.from_tensor_slices((images[keep], labels[keep]))


class FolderSource(Source):
    """The images of a folder or a table, see `mcl_tf.data.layouts`.

    Args:
      name: the path.
      splits: the splits that must exist.
    """

    def __init__(self, name: str, splits=("train",)):
        self._folder = folders.Folder(name, splits)
        self._held: dict[tuple[int, str], list[HeldFiles]] = {}  # by size and resize; copies share it
        super().__init__(name, self._folder.class_names, self._folder.image_shape())

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """See `Source.read`; a file that cannot be decoded raises an error of TensorFlow, which `hold` explains."""
        return self._folder.read(split, classes)

    def hold(self, split: str, classes, size: int, resize: str, room: Room, watch=unwatched, max_unreadable=0.0):
        """See `Source.hold`; what is held already is not read again, and `prepared` reads what is held."""
        chosen = self._folder.chosen(split, classes)
        held = self._find_held(chosen[0], size, resize)
        if held is not None:
            return held.images_of(chosen[0]), chosen[1]
        images, files, labels = self._folder.hold(chosen, size, resize, room, watch, max_unreadable)
        self._held.setdefault((size, resize), []).append(HeldFiles(images, files))
        return images, labels

    def prepared(self, split: str, classes, size: int, resize: str) -> tf.data.Dataset:
        """See `Source.prepared`."""
        files, labels = self._folder.chosen(split, classes)
        held = self._find_held(files, size, resize)
        return super().prepared(split, classes, size, resize) if held is None else held.dataset(files, labels)

    def _find_held(self, files, size: int, resize: str) -> HeldFiles | None:
        """Return the images among which those of all these files are held; None if there are none."""
        return next((held for held in self._held.get((size, resize), ()) if held.has(files)), None)

    def test_classes(self) -> np.ndarray:
        """See `Source.test_classes`."""
        return self._folder.files["test"][1]

    def names(self, split: str, classes=None) -> list[str]:
        """Return the paths of images within the folder."""
        return self._folder.names(split, classes)

    def files(self, split: str, classes=None) -> list[str]:
        """See `Source.files`."""
        return self._folder.chosen(split, classes)[0]

    def train_classes(self) -> list[int]:
        """See `Source.train_classes`."""
        return np.unique(self._folder.files["train"][1]).tolist()

    def copy(self) -> FolderSource:
        """See `Source.copy`."""
        other = copy.copy(self)
        other._folder = copy.copy(self._folder)
        return other

    def divide(self, normal, seed: int, has_anomalies: bool) -> None:
        """See `Source.divide`."""
        self._folder.divide(normal, seed, has_anomalies)

    def heard(self) -> contextlib.AbstractContextManager:
        """See `Source.heard`."""
        return jpeg_warnings.heard(quiet=True)


class TensorFlowDatasetsSource(Source):
    """An image-classification dataset of TensorFlow Datasets, downloaded and prepared if necessary.

    Args:
      name: the name of the dataset.
      builder: its builder.
      splits: the splits that must exist.
    """

    def __init__(self, name: str, builder, splits=SPLITS):
        import tensorflow_datasets as tfds

        features = builder.info.features
        label = features["label"] if "label" in features else None
        if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
            raise UsageError(
                f"{name} is not a dataset of images with one class each. "
                f"Possible: datasets whose features include an image and a label. Received: {', '.join(features)}"
            )
        channels = features["image"].shape[-1]
        if channels not in (1, 3, 4, None):
            raise UsageError(
                "Images must have 1 channel (repeated), 3 or 4 (alpha is dropped). "
                f"Received: {channels} channels in {name}"
            )
        _prepare(builder)
        missing = set(splits) - set(builder.info.splits)
        if missing:
            raise UsageError(
                f"{name} has no {' and no '.join(sorted(missing))} split. Received: {', '.join(builder.info.splits)}"
            )
        super().__init__(name, label.names, features["image"].shape)
        self._builder = builder

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """See `Source.read`."""
        import tensorflow_datasets as tfds

        data = self._builder.as_dataset(
            split,
            decoders={"image": tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(interleave_cycle_length=1),  # one file after the other: a fixed order
        )
        data = data.map(lambda example: (example["image"], example["label"]))
        if classes is not None:
            wanted = tf.constant(classes, tf.int64)
            data = data.filter(lambda _, label: tf.reduce_any(label == wanted))
        decode = self._builder.info.features["image"].decode_example
        data = data.map(lambda image, label: (decode(image), label), tf.data.AUTOTUNE, deterministic=True)
        return data.with_options(image_files.UNTUNED)

    def _key(self, split: str, classes, size: int, resize: str) -> str:
        """See `Source._key`; the files of the records tell one preparation of the dataset from another."""
        folder = self._builder.data_path
        states = (f"{file}: {paths.file_state(file)}" for file in sorted(map(os.fspath, folder.iterdir())))
        return store.key_of(self._builder.info.full_name, split, classes, size, resize, *states)


def load_source(name: str, data_dir: str = "", splits=SPLITS, also=()) -> Source:
    """Open a dataset by name.

    Args:
      name: "digits", a folder or a table (see `mcl_tf.data.layouts`), or the name of an image-classification dataset
        of TensorFlow Datasets, which takes precedence over a folder of that bare name.
      data_dir: where TensorFlow Datasets keeps its files; its own default if empty.
      splits: the splits that must exist; a folder may lack a test split.
      also: other names that are possible where this one was given, for the message about an unknown one.

    Raises:
      UsageError: the name is unknown, the dataset has no labelled images, or it is not available.
    """
    if name == "digits":
        return DigitsSource()
    needed = splits[:1]  # normal images without a test give a detector, too
    if paths.is_folder(name):
        return FolderSource(name, needed)
    builder = _find_builder(name, data_dir, also)
    return FolderSource(name, needed) if builder is None else TensorFlowDatasetsSource(name, builder, splits)


def _find_builder(name, data_dir, also):
    """Return the builder of a dataset; None if there is none and the name is that of a folder."""
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir or None)
    except (ValueError, tfds.core.registered.DatasetNotFoundError):
        if os.path.isdir(name):
            return None
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        close = difflib.get_close_matches(name, known, n=4) or ["digits", "cifar10", "cifar100", "mnist"]
        raise UsageError(
            f"Unknown dataset. Possible: {', '.join([*also, 'digits'])}, a folder of images, or an "
            "image-classification dataset of "
            f"TensorFlow Datasets such as {', '.join(close)}. Received: {name}"
        ) from None


def _prepare(builder) -> None:
    """Download and prepare a dataset, unless that is done."""
    from tensorflow_datasets.core.download import downloader

    if builder.data_path.exists():
        return
    downloader.MAX_RETRIES = _DOWNLOAD_RETRIES
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # the failure is reported once, below
    try:
        builder.download_and_prepare()
    except Exception as error:  # noqa: BLE001 - downloads fail in as many ways as there are hosts
        reason = one_line(error, 160)
        raise UsageError(
            f"TensorFlow Datasets could not prepare {builder.name} in {builder.data_path}: {reason}. "
            f"Prepare it where there is a network with `python -m tensorflow_datasets build {builder.name} "
            "--data_dir=DIR`, copy DIR here and pass it as data_dir; or use the dataset digits"
        ) from None
