"""Folders of images: DIR/train/<class>/... and DIR/test/<class>/..., the layout of MVTec AD and many others.

`tfds.ImageFolder` reads the same layout, but neither BMP and GIF files nor folders below a class; it shuffles the files
and does not name a damaged one.
"""

from __future__ import annotations

import collections
import functools
import logging
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from mcl_tf.data import decoding, jpeg_warnings, listing
from mcl_tf.errors import UsageError, printable

SPLITS = ("train", "test")
ENDINGS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png")
# In a single pass there is nothing to tune, and the tuning thread can take half a second to end.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False
# What is decoded by a call of Python waits for TensorFlow's own threads, and must not be one of them.
_DECODING = tf.data.Options()
_DECODING.autotune.enabled = False
_DECODING.threading.private_threadpool_size = os.cpu_count() or 1
_LAYOUT = "a folder DIR with images in DIR/train/<class>/ and DIR/test/<class>/"
_logger = logging.getLogger(__name__)


class Folder:
    """The images of a folder, in the order of class and path, each file once.

    Housekeeping files and folders, see `listing`, are left out. Other files that are left out are counted in the log.

    Args:
      path: the folder.
      splits: the splits that must exist.

    Attributes:
      class_names: names of the folders that hold images, over both splits, sorted.
      files: {split: (paths relative to the folder, sorted by class, and their class numbers int64 [n])}.

    Raises:
      UsageError: there is no such folder, a split is missing or has no images, or something in it cannot be read.
    """

    def __init__(self, path: str, splits=SPLITS):
        self.path = os.path.expanduser(path)
        if not os.path.isdir(self.path):
            raise UsageError(f"There is no such folder. Possible: {_LAYOUT}. Received: {path}")
        found = {split: _list(os.path.join(self.path, split)) for split in SPLITS}
        listed = {split: _classes(os.path.join(self.path, split), found[split].files) for split in SPLITS}
        for split in splits:
            if not os.path.isdir(os.path.join(self.path, split)):
                raise UsageError(f"The folder has no {split} folder. Possible: {_LAYOUT}. Received: {path}")
            if not listed[split]:
                _report_left_out(self.path, found)
                raise UsageError(
                    f"There are no images ({', '.join(ENDINGS)}) in the classes of {split}. "
                    f"Possible: {_LAYOUT}. Received: {path}"
                )
        names = sorted(set().union(*listed.values()))
        self.class_names = tuple(printable(name) for name in names)
        self.files = {split: self._list(names, classes) for split, classes in listed.items()}
        _report_left_out(self.path, found)

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
            raise UsageError(
                f"{self.path} has no {split} images of this class. "
                f"Possible for normal: {class_list(self.class_names, np.unique(labels))}. "
                f"Received: {class_list(self.class_names, [absent])}"
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

        return data.map(decode, tf.data.AUTOTUNE, deterministic=True).with_options(_DECODING)

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

        tried = data.map(try_one, tf.data.AUTOTUNE).ignore_errors().batch(64).with_options(_DECODING)
        with jpeg_warnings.heard(quiet=True) as warnings:
            good = [index for batch in watch(tried.as_numpy_iterator(), "Checking test images") for index in batch]
        bad = np.setdiff1d(np.arange(len(paths)), good)
        if warnings.found:  # by which of the images, only decoding them one by one can tell
            damaged = (index for index in watch(good, "Finding damaged images") if _is_damaged(paths[index]))
            bad = np.union1d(bad, np.fromiter(damaged, int))
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


def class_list(names, numbers) -> str:
    """Return classes as text: numbers and names, or names alone where one of all names is a number.

    Args:
      names: the names of all classes.
      numbers: the classes.
    """
    return ", ".join(names[n] if has_number_names(names) else f"{n} {names[n]}" for n in numbers)


def has_number_names(names) -> bool:
    """Return whether a class is named by a number, so that a number means a name."""
    return any(name.isdecimal() for name in names)


def _list(split: str) -> listing.Listing:
    """List the files of a split.

    Raises:
      UsageError: a folder cannot be listed.
    """
    found = listing.find_files(split) if os.path.isdir(split) else listing.Listing()
    if found.failed:
        path, reason = found.failed[0]
        more = f" (and {len(found.failed) - 1} more)" if len(found.failed) > 1 else ""
        raise UsageError(f"{printable(path)} {reason}{more}")
    return found


def _classes(split: str, paths) -> dict[str, list[str]]:
    """Return {class: sorted paths of its images} of the classes that have any.

    Raises:
      UsageError: an image is no file.
    """
    classes = collections.defaultdict(list)
    for path in filter(_is_image, paths):
        name, *rest = os.path.relpath(path, split).split(os.sep)
        if not os.path.isfile(path):
            raise UsageError(f"{printable(path)} is a pipe, a device or a link to nowhere, not an image")
        if rest:
            classes[name].append(path)
    return dict(classes)


def _is_image(path: str) -> bool:
    return path.lower().endswith(ENDINGS)


def _report_left_out(folder: str, found: dict[str, listing.Listing]) -> None:
    """Log which files are not read: those of other formats, images outside of the classes, and links to others."""
    paths = [path for split in found.values() for path in split.files]
    others = [os.path.splitext(path)[1].lower() or "no ending" for path in paths if not _is_image(path)]
    if others:
        counts = sorted(collections.Counter(others).items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{printable(ending)} ({n})" for ending, n in counts)
        one = len(others) == 1
        text = "file of another format was" if one else "files of other formats were"
        _logger.warning("%d %s left out: %s", len(others), text, kinds)
    splits = [os.path.join(folder, split) for split in found]
    outside = sum(_is_image(path) and os.path.dirname(path) in splits for path in paths)
    if outside:
        _logger.warning("%d images outside of a class folder were left out", outside)
    repeated = sum(split.repeated for split in found.values())
    if repeated:
        _logger.warning("%d links to images that are read already were left out", repeated)


def _is_damaged(path: str) -> bool:
    with open(path, "rb") as file:
        return jpeg_warnings.is_damaged(file.read())


def _as_bytes(paths):
    return tf.constant([os.fsencode(path) for path in paths], tf.string, shape=[len(paths)])


def _reason(path) -> str:
    """Return why a file is not an image, as the end of a sentence."""
    try:
        with open(path, "rb") as file:
            contents = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    with jpeg_warnings.heard(quiet=True):
        reason = _explain()(tf.constant([contents])).numpy()[0].decode()
    return reason or (jpeg_warnings.DAMAGED if jpeg_warnings.is_damaged(contents) else "cannot be decoded")


@functools.lru_cache(maxsize=1)  # tracing takes seconds
def _explain():
    """Return a function from encoded images, string [n], to the reasons why they cannot be decoded."""
    specification = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda contents: decoding.decode(contents, 1)[1], input_signature=specification)
