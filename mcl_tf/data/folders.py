"""Folders of pictures: DIR/train/<class>/... and DIR/test/<class>/..., as MVTec AD and many others lie.

`tfds.ImageFolder` reads the same layout, but neither BMP and GIF nor folders below a class, in a shuffled order,
and it does not say which file is bad.
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
# One pass has nothing to tune: all cores decode from the start. The thread that tunes can take half a second
# to end.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False
_LAYOUT = "a folder DIR with pictures in DIR/train/<class>/ and DIR/test/<class>/"


def is_folder(name: str) -> bool:
    """Whether a dataset's name means a folder; a bare name could also be a set of TensorFlow Datasets."""
    return looks_like_path(name) or (os.sep in name and os.path.isdir(name))


def looks_like_path(name: str) -> bool:
    """Whether a name can only be meant as a path."""
    return name.startswith((".", "~", os.sep))


def folder_name(name: str) -> str:
    """The last part of a folder's path, for names of files."""
    return os.path.basename(os.path.realpath(os.path.expanduser(name))) or "folder"


@contextlib.contextmanager
def silent_decoders():
    """Within, nothing reaches the standard error: libjpeg itself writes there of every damaged file."""
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
    """The pictures of a folder, in the order of class and path; hidden and other files do not count.

    Args:
      path: the folder.
      splits: those that must be there.

    Attributes:
      class_names: names of the folders that hold pictures, over both splits, sorted.
      files: {split: (paths relative to the folder, sorted by class, and their class numbers int64 [n])}.

    Raises:
      UsageError: there is no such folder, a split is missing or holds no pictures.
    """

    def __init__(self, path: str, splits=SPLITS):
        self.path = os.path.expanduser(path)
        if not os.path.isdir(self.path):
            raise UsageError(f"There is no such folder. Possible: {_LAYOUT}. Received: {path}")
        found = {split: _classes(os.path.join(self.path, split)) for split in SPLITS}
        for split in splits:
            if found[split] is None:
                raise UsageError(f"The folder has no {split} folder. Possible: {_LAYOUT}. Received: {path}")
            if not found[split]:
                raise UsageError(
                    f"There are no pictures ({', '.join(ENDINGS)}) in the classes of {split}. "
                    f"Possible: {_LAYOUT}. Received: {path}"
                )
        known = {split: classes or {} for split, classes in found.items()}
        names = sorted(set().union(*known.values()))
        self.class_names = tuple(printable(name) for name in names)
        self.files = {split: self._list(names, classes) for split, classes in known.items()}

    def _list(self, class_names, classes):
        names = [(name, number) for number, c in enumerate(class_names) for name in classes.get(c, ())]
        paths = [os.path.relpath(name, self.path) for name, _ in names]
        return paths, np.array([number for _, number in names], np.int64)

    def chosen(self, split: str, classes=None):
        """Full paths and class numbers of the files of some classes, or of all.

        Raises:
          UsageError: a class has no picture in the split.
        """
        paths, labels = self.files[split]
        places = np.arange(len(labels)) if classes is None else np.flatnonzero(np.isin(labels, classes))
        for absent in sorted(set(classes or ()) - set(labels.tolist())):
            there = ", ".join(f"{number} {self.class_names[number]}" for number in np.unique(labels))
            raise UsageError(
                f"{self.path} has no {split} pictures of this class. Possible for --normal: {there}. "
                f"Received: {absent} {self.class_names[absent]}"
            )
        return [os.path.join(self.path, paths[place]) for place in places], labels[places]

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """As `Source.read`; a file that cannot be decoded is an error of TensorFlow's, which `check` explains."""
        paths, labels = self.chosen(split, classes)
        data = tf.data.Dataset.from_tensor_slices((_as_bytes(paths), labels))

        def decode(path, label):
            return decoding.decode_one(tf.io.read_file(path)), label

        return data.map(decode, tf.data.AUTOTUNE, deterministic=True).with_options(UNTUNED)

    def check(self, parts, watch) -> None:
        """Decodes all pictures of parts (split, classes).

        Raises:
          UsageError: names the first file that cannot be decoded and the number of others.
        """
        paths = [path for split, classes in parts for path in self.chosen(split, classes)[0]]
        data = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), _as_bytes(paths)))

        def try_one(place, path):
            # Not the traced function, of which nothing would be run for its errors alone.
            picture = decoding.decode_one.python_function(tf.io.read_file(path))
            with tf.control_dependencies([picture]):
                return tf.identity(place)

        tried = data.map(try_one, tf.data.AUTOTUNE).ignore_errors().batch(64).with_options(UNTUNED)
        good = [place for batch in watch(tried.as_numpy_iterator(), "Checking test pictures") for place in batch]
        bad = np.setdiff1d(np.arange(len(paths)), good)
        if len(bad):
            count = len(bad) - 1
            more = f" (and {count} more file{'s' * (count > 1)} cannot be read)" if count else ""
            first = paths[bad[0]]
            raise UsageError(f"{printable(first)} {_reason(first)}{more}")

    def identifiers(self) -> list[str]:
        """Names of the test pictures: their paths within the folder."""
        return [printable(path) for path in self.files["test"][0]]

    def picture_shape(self) -> tuple[int | None, int | None, int]:
        """Height, width and channels of the first picture whose header can be read."""
        for split in SPLITS:
            for path in self.files[split][0]:
                try:
                    with Image.open(os.path.join(self.path, path)) as picture:
                        return picture.height, picture.width, 3
                except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                    continue  # said with its name when it is read
        return None, None, 3


def _classes(split: str):
    """{class: paths of its pictures, sorted} of those that have any; None where there is no folder."""
    if not os.path.isdir(split):
        return None
    found = {}
    for entry in os.scandir(split):
        if entry.is_dir() and not entry.name.startswith("."):
            pattern = os.path.join(glob.escape(entry.path), "**", "*")
            names = [name for name in glob.glob(pattern, recursive=True) if name.lower().endswith(ENDINGS)]
            found[entry.name] = sorted(filter(os.path.isfile, names))
    return {name: paths for name, paths in found.items() if paths}


def _as_bytes(paths):
    return tf.constant([os.fsencode(path) for path in paths], tf.string, shape=[len(paths)])


def _reason(path) -> str:
    """Why a file is no picture, as the end of a sentence."""
    try:
        with open(path, "rb") as file:
            contents = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    explain = tf.function(lambda encoded: decoding.decode(encoded, 1)[1])
    return explain(tf.constant([contents])).numpy()[0].decode() or "cannot be decoded"
