"""Images that are decoded once and kept in memory, for many runs on the same datasets."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import tensorflow as tf

from mcl_tf.data.sources import SPLITS, Source, load_source
from mcl_tf.data.tasks import read_images
from mcl_tf.errors import UsageError
from mcl_tf.utils import memory
from mcl_tf.utils.console import tracked

_SHARE = 0.5  # of the free memory that the images of one split may take
_logger = logging.getLogger(__name__)


class KeptSources:
    """Opens datasets by name; every one is listed and decoded once, whatever the number of runs that read it.

    Args:
      max_unreadable: the share of the files of a dataset that may be left out because they cannot be decoded.

    Attributes:
      failure: the error of images that cannot be read, which no run can do without; None if there is none.
    """

    def __init__(self, max_unreadable: float = 0.0):
        self.failure: UsageError | None = None
        self._max_unreadable = max_unreadable
        self._sources: dict[tuple, tuple[Source, dict]] = {}

    def load(self, name: str, data_dir: str = "", splits=SPLITS, also=()) -> Source:
        """Open a dataset, see `load_source`.

        Returns:
          A source of the same images, in the same order and equal to the bit.
        """
        key = (name, data_dir, splits)
        if key not in self._sources:
            source = load_source(name, data_dir, splits, also)
            try:
                source.check([(split, None) for split in SPLITS], tracked, self._max_unreadable)
            except UsageError as error:
                self.failure = error
                raise
            self._sources[key] = source, {}
        return _KeptSource(*self._sources[key])


class _KeptSource(Source):
    """A source whose prepared images stay in memory.

    Args:
      original: the source, which is never divided.
      kept: {(split, size, resize): `_Images`, or None where they take too much memory}; all runs share it.
    """

    def __init__(self, original: Source, kept: dict):
        super().__init__(original.name, original.class_names, original.image_shape)
        self._original, self._kept = original, kept
        self._source = original.copy()

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """See `Source.read`; these images are read again."""
        return self._source.read(split, classes)

    def test_classes(self) -> np.ndarray | None:
        """See `Source.test_classes`."""
        return self._source.test_classes()

    def train_classes(self) -> list[int]:
        """See `Source.train_classes`."""
        return self._source.train_classes()

    def names(self, split: str, classes=None) -> list[str] | None:
        """See `Source.names`."""
        return self._source.names(split, classes)

    def files(self, split: str, classes=None) -> list[str] | None:
        """See `Source.files`."""
        return self._source.files(split, classes)

    def divide(self, normal, seed: int, has_anomalies: bool) -> None:
        """See `Source.divide`."""
        self._source.divide(normal, seed, has_anomalies)

    def heard(self) -> contextlib.AbstractContextManager:
        """See `Source.heard`."""
        return self._source.heard()

    def copy(self) -> Source:
        """See `Source.copy`."""
        return _KeptSource(self._original, self._kept)

    def prepared(self, split: str, classes, size: int, resize: str) -> tf.data.Dataset:
        """See `Source.prepared`."""
        files = self._source.files(split, classes)
        # Where a dataset does not say which images are for the test, all of them lie in `train` before the division.
        origin = split if not files or self._original.files(split) else "train"
        images = self._images(origin, size, resize)
        if images is None:
            return self._source.prepared(split, classes, size, resize)
        return images.select(images.of_classes(classes) if files is None else [images.rows[file] for file in files])

    def _images(self, split: str, size: int, resize: str):
        key = (split, size, resize)
        if key not in self._kept:
            self._kept[key] = self._read(*key) if self._fits(split, size) else None
        return self._kept[key]

    def _fits(self, split: str, size: int) -> bool:
        count, free = int(self._original.read(split).cardinality()), memory.available()
        if free is None or count * size * size * 3 <= _SHARE * free:
            return True
        _logger.info("%s: %d images of %s do not fit into memory; every run reads them.", self.name, count, split)
        return False

    def _read(self, split: str, size: int, resize: str) -> _Images:
        images, labels = read_images(self._original.prepared(split, None, size, resize), size, tracked)
        return _Images(images, labels, self._original.files(split))


class _Images:
    """Images in memory.

    Args:
      images: uint8 [n, s, s, 3].
      labels: int64 [n], class numbers.
      files: their paths; None if they are no files.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, files: list[str] | None):
        with tf.device("CPU"):
            self._images = tf.constant(images)
        self._labels = labels
        self.rows = {file: row for row, file in enumerate(files or ())}

    def of_classes(self, classes) -> np.ndarray:
        """Return the rows of some classes, or of all for None, int64 [m]."""
        return np.arange(len(self._labels)) if classes is None else np.flatnonzero(np.isin(self._labels, classes))

    def select(self, rows) -> tf.data.Dataset:
        """Return a dataset of (image uint8 [s, s, 3], class int64) of some rows, in their order."""
        rows = np.asarray(rows, np.int64)
        chosen = tf.data.Dataset.from_tensor_slices((rows, self._labels[rows]))
        return chosen.map(lambda row, label: (self._images[row], label))
