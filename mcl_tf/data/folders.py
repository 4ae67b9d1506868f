"""Images in folders, in any layout of `mcl_tf.data.layouts`.

`tfds.ImageFolder` reads one of these layouts, but neither BMP and GIF files nor folders below a class; it shuffles the
files and does not name a damaged one.
"""

from __future__ import annotations

import collections
import functools
import logging
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from mcl_tf.data import decoding, jpeg_warnings, layouts, rare_formats
from mcl_tf.data.layouts import SPLITS
from mcl_tf.errors import UsageError, printable

# In a single pass there is nothing to tune, and the tuning thread can take half a second to end.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False
# What is decoded by a call of Python waits for TensorFlow's own threads, and must not be one of them.
_DECODING = tf.data.Options()
_DECODING.autotune.enabled = False
_DECODING.threading.private_threadpool_size = os.cpu_count() or 1
_logger = logging.getLogger(__name__)


class Folder:
    """The images of a folder, in the order of class and path, each file once.

    Housekeeping files and folders, see `listing`, are left out. Other files that are left out are counted in the log.

    Args:
      path: the folder, or a table, see `layouts.recognise`.
      splits: the splits that must have images, among them those that `divide` fills.

    Attributes:
      path: the folder.
      class_names: names of the classes that have images, over both splits, sorted.
      files: {split: (paths relative to the folder, sorted by class, and their class numbers int64 [n])}.

    Raises:
      UsageError: there is no such folder, a split is missing or has no images, or something in it cannot be read.
    """

    def __init__(self, path: str, splits=("train",)):
        self._name, self._layout = path, layouts.recognise(os.path.expanduser(path))
        self.path = self._layout.base
        _report_left_out(self._layout)
        for split in splits:
            self._check(split)
        self._classes = sorted(set().union(*self._layout.classes.values()))
        self.class_names = tuple(map(printable, self._classes))
        self.files = self._list()

    def _check(self, split: str) -> None:
        layout = self._layout
        if layout.classes[split] or (layout.undivided and layout.classes["train"]):
            return
        if split in layout.found or layout.undivided:
            where = f"in the classes of {split}" if split in layout.found else "there"
            raise UsageError(
                f"There are no images ({', '.join(layouts.ENDINGS)}) {where}. "
                f"Possible: {layouts.POSSIBLE}. Received: {self._name}"
            )
        raise UsageError(f"The dataset has no {split} images. Possible: {layouts.POSSIBLE}. Received: {self._name}")

    def _list(self):
        files = {}
        for split, classes in self._layout.classes.items():
            names = [(name, number) for number, c in enumerate(self._classes) for name in classes.get(c, ())]
            paths = [os.path.relpath(name, self.path) for name, _ in names]
            files[split] = paths, np.array([number for _, number in names], np.int64)
        return files

    def divide(self, normal, seed: int, has_anomalies: bool = False) -> None:
        """Decide which images are for the test, where the layout does not say, and log what was recognised.

        Args:
          normal: numbers of the normal classes; none if all images are for the test.
          seed: the seed of the decision.
          has_anomalies: whether there are anomalies besides the images of other classes.
        """
        self._layout = self._layout.divided([self._classes[number] for number in normal], seed, has_anomalies)
        self.files = self._list()
        counts = "; ".join(f"{split}: {self._counts(split)}" for split in SPLITS if len(self.files[split][0]))
        chosen = f", divided by the seed {seed}" if self._layout.undivided and len(self.files["test"][0]) else ""
        _logger.info("%s has %s. Images for %s%s", self._name, self._layout.kind, counts, chosen)

    def _counts(self, split: str) -> str:
        numbers, counts = np.unique(self.files[split][1], return_counts=True)
        shown = [f"{count:,} {self.class_names[number]}" for number, count in zip(numbers[:4], counts, strict=False)]
        if len(numbers) > len(shown):
            shown.append(f"{counts[4:].sum():,} of {len(numbers) - 4} more classes")
        return ", ".join(shown)

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

    def check(self, parts, watch, max_unreadable: float = 0.0) -> int:
        """Decode all images of some parts and leave out those that cannot be decoded, see `Source.check`."""
        paths = [path for split, classes in parts for path in self.chosen(split, classes)[0]]
        bad = [paths[index] for index in _undecodable(paths, watch)]
        if not bad:
            return 0
        if len(bad) > max_unreadable * len(paths):
            count = len(bad) - 1
            more = f" (and {count} more file{'s' * (count > 1)} cannot be read)" if count else ""
            limit = f". At most {max_unreadable:.3g} of the {len(paths)} images may be unreadable"
            raise UsageError(f"{printable(bad[0])} {_reason(bad[0])}{more}{limit if max_unreadable else ''}")
        _logger.warning("%d of %d images cannot be read and are left out:", len(bad), len(paths))
        for path in bad:
            _logger.warning("  %s %s", printable(path), _reason(path))
        self._layout = self._layout.without(bad)
        self.files = self._list()
        return len(bad)

    def names(self, split: str, classes=None) -> list[str]:
        """Return the paths of images within the folder; the arguments are those of `read`."""
        return [printable(os.path.relpath(path, self.path)) for path in self.chosen(split, classes)[0]]

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


def _report_left_out(layout: layouts.Layout) -> None:
    """Log which files are not read: those of other formats, images outside of the classes, and links to others."""
    paths = [path for found in layout.found.values() for path in found.files]
    others = [os.path.splitext(path)[1].lower() or "no ending" for path in paths if not layouts.is_image(path)]
    if others:
        counts = sorted(collections.Counter(others).items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{printable(ending)} ({n})" for ending, n in counts)
        one = len(others) == 1
        text = "file of another format was" if one else "files of other formats were"
        _logger.warning("%d %s left out: %s", len(others), text, kinds)
    read = {path for classes in layout.classes.values() for images in classes.values() for path in images}
    outside = sum(layouts.is_image(path) and path not in read for path in paths)
    if outside:
        what = "image outside of a class folder was" if outside == 1 else "images outside of a class folder were"
        _logger.warning("%d %s left out", outside, what)
    repeated = sum(found.repeated for found in layout.found.values())
    if repeated:
        what = (
            "link to an image that is read already was"
            if repeated == 1
            else "links to images that are read already were"
        )
        _logger.warning("%d %s left out", repeated, what)


def _undecodable(paths, watch) -> np.ndarray:
    """Return the sorted indices of the files that cannot be decoded."""
    data = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), _as_bytes(paths)))

    def try_one(index, path):
        # Not the traced function, because TensorFlow would prune the call, whose result is not used.
        image = decoding.decode_at_own_size.python_function(tf.io.read_file(path))
        with tf.control_dependencies([image]):
            return tf.identity(index)

    tried = data.map(try_one, tf.data.AUTOTUNE).ignore_errors().batch(64).with_options(_DECODING)
    with jpeg_warnings.heard(quiet=True) as warnings:
        good = [index for batch in watch(tried.as_numpy_iterator(), "Checking images") for index in batch]
    bad = np.setdiff1d(np.arange(len(paths)), good)
    if warnings.found:  # by which of the images, only decoding them one by one can tell
        damaged = (index for index in watch(good, "Finding damaged images") if _is_damaged(paths[index]))
        bad = np.union1d(bad, np.fromiter(damaged, int))
    return bad


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
    contents, reason = rare_formats.for_graph(contents)
    with jpeg_warnings.heard(quiet=True):
        reason = reason or decoding.for_files(_explain()(tf.constant([contents])).numpy()[0].decode())
    return reason or (jpeg_warnings.DAMAGED if jpeg_warnings.is_damaged(contents) else "cannot be decoded")


@functools.lru_cache(maxsize=1)  # tracing takes seconds
def _explain():
    """Return a function from encoded images, string [n], to the reasons why they cannot be decoded."""
    specification = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda contents: decoding.decode(contents, 1)[1], input_signature=specification)
