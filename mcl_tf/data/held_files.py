"""Images of files that are held at one size, and are found by the paths of the files."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.data import store


class HeldFiles:
    """Images of files.

    Args:
      images: uint8 [n, s, s, 3], an array or `StoredImages`.
      files: their paths [n].
    """

    def __init__(self, images, files):
        self._images = images
        self._rows = {file: row for row, file in enumerate(files)}

    def has(self, files) -> bool:
        """Return whether the images of all these files are held."""
        return all(file in self._rows for file in files)

    def images_of(self, files):
        """Return the images of files, in their order: an array, or `StoredImages` that are not read yet."""
        return store.select(self._images, self._numbers(files))

    def dataset(self, files, labels) -> tf.data.Dataset:
        """Return a dataset of (image uint8 [s, s, 3], label int64) of files, in their order.

        Args:
          files: their paths [m].
          labels: int64 [m].
        """
        return store.as_dataset(self._images, self._numbers(files), labels)

    def _numbers(self, files) -> np.ndarray:
        return np.array([self._rows[file] for file in files], np.int64)
