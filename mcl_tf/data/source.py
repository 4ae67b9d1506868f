"""What every source of images can do."""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.data import jpeg_warnings
from mcl_tf.data.room import Reading, Room, unwatched


class Source:
    """A labelled set of images in the splits `train` and `test`.

    Args:
      name: the name of the dataset.
      class_names: the name of every class number.
      image_shape: (height, width, channels); None where images differ. For a folder, that of the first image.
    """

    def __init__(self, name: str, class_names, image_shape: tuple[int | None, int | None, int]):
        self.name = name
        self.class_names = tuple(class_names)
        self.image_shape = image_shape

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """Return the images of a split, always in the same order.

        Args:
          split: "train" or "test".
          classes: numbers of the classes to read; all by default.

        Returns:
          A dataset of (image uint8 [h, w, c], class int64).
        """
        raise NotImplementedError

    def prepared(self, split: str, classes, size: int, resize: str) -> tf.data.Dataset:
        """Return the images of `read` at one size, see `views.prepare`.

        Args:
          split: "train" or "test".
          classes: numbers of the classes to read; None for all.
          size: side in pixels.
          resize: what becomes of images that are not square.

        Returns:
          A dataset of (image uint8 [size, size, 3], class int64).
        """

        def prepare(image, label):
            return views.prepare(image[None], size, resize)[0], label

        return self.read(split, classes).map(prepare, tf.data.AUTOTUNE, deterministic=True)

    def hold(self, split: str, classes, size: int, resize: str, room: Room, watch=unwatched, max_unreadable=0.0):
        """Read images in one pass and hold them at one size; files that cannot be decoded are left out.

        Args:
          split: "train" or "test".
          classes: numbers of the classes to read; None for all.
          size: side in pixels.
          resize: what becomes of images that are not square.
          room: holds them.
          watch: function (batches, description) -> batches, for a progress bar.
          max_unreadable: the share of files that may be left out; each of them is logged.

        Returns:
          uint8 [n, size, size, 3], an array or `StoredImages`, and class numbers int64 [n], in the order of `read`.

        Raises:
          UsageError: more files cannot be decoded; names the first of them and the number of others.
        """
        del max_unreadable
        reading = Reading(self.prepared(split, classes, size, resize), self._key(split, classes, size, resize))
        return room.hold(reading, watch)

    def _key(self, split: str, classes, size: int, resize: str) -> str:
        """Return what tells the images of `prepared` from others, see `Reading`."""
        del split, classes, size, resize
        return ""

    def test_classes(self) -> np.ndarray | None:
        """Return the class numbers int64 [n] of the test images, if they are known without reading the images."""
        return None

    def names(self, split: str, classes=None) -> list[str] | None:
        """Return the names of the images of `read`, if they have any."""
        del split, classes
        return None

    def files(self, split: str, classes=None) -> list[str] | None:
        """Return the full paths of the images of `read`, if they are files."""
        del split, classes
        return None

    def train_classes(self) -> list[int]:
        """Return the numbers of the classes that can be trained on."""
        return list(range(len(self.class_names)))

    def copy(self) -> Source:
        """Return a source of the same images that `divide` changes independently of this one."""
        return self

    def divide(self, normal, seed: int, has_anomalies: bool) -> None:
        """Decide which images are for the test, where the dataset does not say.

        Args:
          normal: numbers of the normal classes; none if all images are for the test.
          seed: the seed of the decision.
          has_anomalies: whether there are anomalies besides the images of other classes.
        """
        del normal, seed, has_anomalies

    def heard(self) -> contextlib.AbstractContextManager:
        """Context manager around the decoding of files, see `jpeg_warnings.heard`; it catches nothing without files."""
        return contextlib.nullcontext(jpeg_warnings.Warnings())
