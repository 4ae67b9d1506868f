"""Folders of images: DIR/train/<class>/... and DIR/test/<class>/..., the layout of MVTec AD and many others.

`tfds.ImageFolder` reads the same layout, but neither BMP and GIF files nor folders below a class; it shuffles the files
and does not name a damaged one.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys

import numpy as np
import tensorflow as tf
from PIL import Image

from mcl_tf.data import decoding
from mcl_tf.errors import UsageError, printable

SPLITS = ("train", "test")
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
# In a single pass there is nothing to tune, and the tuning thread can take half a second to end.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False
_LAYOUT = "a folder DIR with images in DIR/train/<class>/ and DIR/test/<class>/"


@contextlib.contextmanager
def silent_decoders():
    """Context manager that discards standard error, where libjpeg reports every damaged file by itself."""
    sys.stderr.flush()
    screen = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


class Folder:
    """The images of a folder, in the order of class and path; hidden and other files are left out.

    Args:
      path: the folder.
      splits: the splits that must exist.

    Attributes:
      class_names: names of the folders that hold images, over both splits, sorted.
      files: {split: (paths relative to the folder, sorted by class, and their class numbers int64 [n])}.

    Raises:
      UsageError: there is no such folder, or a split is missing or has no images.
    """

    def __init__(self, path: str, splits=SPLITS):
        self.path = os.path.expanduser(path)
        if not os.path.isdir(self.path):
            raise UsageError(f"There is no such folder. Possible: {_LAYOUT}. Received: {path}")
        listed = {split: _classes(os.path.join(self.path, split)) for split in SPLITS}
        for split in splits:
            if listed[split] is None:
                raise UsageError(f"The folder has no {split} folder. Possible: {_LAYOUT}. Received: {path}")
            if not listed[split]:
                raise UsageError(
                    f"There are no images ({', '.join(ENDINGS)}) in the classes of {split}. "
                    f"Possible: {_LAYOUT}. Received: {path}"
                )
        known = {split: classes or {} for split, classes in listed.items()}
        names = sorted(set().union(*known.values()))
        self.class_names = tuple(printable(name) for name in names)
        self.files = {split: self._list(names, classes) for split, classes in known.items()}

    def _list(self, class_names, classes):
        names = [(name, number) for number, c in enumerate(class_names) for name in classes.get(c, ())]
        paths = [os.path.relpath(name, self.path) for name, _ in names]
        return paths, np.array([number for _, number in names], np.int64)

    def chosen(self, split: str, classes=None):
        """Return full paths and class numbers of the files of some classes, or of all.

        Args:
          split: "train" or "test".
          classes: class numbers; all by default.

        Raises:
          UsageError: a class has no image in the split.
        """
        paths, labels = self.files[split]
        indices = np.arange(len(labels)) if classes is None else np.flatnonzero(np.isin(labels, classes))
        for absent in sorted(set(classes or ()) - set(labels.tolist())):
            present = ", ".join(f"{number} {self.class_names[number]}" for number in np.unique(labels))
            raise UsageError(
                f"{self.path} has no {split} images of this class. Possible for normal: {present}. "
                f"Received: {absent} {self.class_names[absent]}"
            )
        return [os.path.join(self.path, paths[index]) for index in indices], labels[indices]

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """Return a dataset of (image uint8 [h, w, 3], class int64), see `Source.read`.

        Args:
          split: "train" or "test".
          classes: class numbers; all by default.
        """
        paths, labels = self.chosen(split, classes)
        data = tf.data.Dataset.from_tensor_slices((_as_bytes(paths), labels))

        def decode(path, label):
            return decoding.decode_at_own_size(tf.io.read_file(path)), label

        return data.map(decode, tf.data.AUTOTUNE, deterministic=True).with_options(UNTUNED)

    def check(self, parts, watch) -> None:
        """Decode all images of some parts, see `Source.check`.

        Args:
          parts: (split, classes) pairs.
          watch: function (batches, description) -> batches, for a progress bar.

        Raises:
          UsageError: names the first file that cannot be decoded and the number of others.
        """
        paths = [path for split, classes in parts for path in self.chosen(split, classes)[0]]
        data = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), _as_bytes(paths)))

        def try_one(index, path):
            # Not the traced function, because TensorFlow would prune the call, whose result is not used.
            image = decoding.decode_at_own_size.python_function(tf.io.read_file(path))
            with tf.control_dependencies([image]):
                return tf.identity(index)

        tried = data.map(try_one, tf.data.AUTOTUNE).ignore_errors().batch(64).with_options(UNTUNED)
        good = [index for batch in watch(tried.as_numpy_iterator(), "Checking test images") for index in batch]
        bad = np.setdiff1d(np.arange(len(paths)), good)
        if len(bad):
            count = len(bad) - 1
            more = f" (and {count} more file{'s' * (count > 1)} cannot be read)" if count else ""
            first = paths[bad[0]]
            raise UsageError(f"{printable(first)} {_reason(first)}{more}")

    def test_names(self) -> list[str]:
        """Return the paths of the test images within the folder."""
        return [printable(path) for path in self.files["test"][0]]

    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Return height, width and channels of the first image whose header can be read."""
        for split in SPLITS:
            for path in self.files[split][0]:
                try:
                    with Image.open(os.path.join(self.path, path)) as image:
                        return image.height, image.width, 3
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    continue  # reported by name when it is read
        return None, None, 3


def _classes(split: str):
    """Return {class: sorted paths of its images} of the classes that have any; None if there is no folder."""
    if not os.path.isdir(split):
        return None
    classes = {}
    for entry in os.scandir(split):
        if entry.is_dir() and not entry.name.startswith("."):
            pattern = os.path.join(glob.escape(entry.path), "**", "*")
            names = [name for name in glob.glob(pattern, recursive=True) if name.lower().endswith(ENDINGS)]
            classes[entry.name] = sorted(filter(os.path.isfile, names))
    return {name: paths for name, paths in classes.items() if paths}


def _as_bytes(paths):
    return tf.constant([os.fsencode(path) for path in paths], tf.string, shape=[len(paths)])


def _reason(path) -> str:
    """Return why a file is not an image, as the end of a sentence."""
    try:
        with open(path, "rb") as file:
            contents = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    explain = tf.function(lambda encoded: decoding.decode(encoded, 1)[1])
    return explain(tf.constant([contents])).numpy()[0].decode() or "cannot be decoded"
