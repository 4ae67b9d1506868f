"""Images in folders, in any layout of `mcl_tf.data.layouts`.

`tfds.ImageFolder` reads one of these layouts, but neither BMP and GIF files nor folders below a class; it shuffles the
files and does not name a damaged one.
"""

from __future__ import annotations

import collections
import logging
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from mcl_tf.data import image_files, layouts
from mcl_tf.data.file_reading import FileReading
from mcl_tf.data.layouts import SPLITS
from mcl_tf.data.room import Room, unwatched, without
from mcl_tf.errors import UsageError, printable

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
        self._files: dict | None = None

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

    @property
    def files(self) -> dict[str, tuple[list[str], np.ndarray]]:
        """See the attribute; a list of a million files takes seconds, so that it is made when it is first asked for."""
        if self._files is None:
            self._files = {}
            for split in SPLITS:
                names = list(self._names(split))
                paths = [os.path.relpath(name, self.path) for name, _ in names]
                self._files[split] = paths, np.array([number for _, number in names], np.int64)
        return self._files

    def _names(self, split: str):
        """Yield (path, class number) of every file of a split."""
        for number, name in enumerate(self._classes):
            yield from ((path, number) for path in self._layout.classes[split].get(name, ()))

    def divide(self, normal, seed: int, has_anomalies: bool = False) -> None:
        """Decide which images are for the test, where the layout does not say, and log what was recognised.

        Args:
          normal: numbers of the normal classes; none if all images are for the test.
          seed: the seed of the decision.
          has_anomalies: whether there are anomalies besides the images of other classes.
        """
        self._layout = self._layout.divided([self._classes[number] for number in normal], seed, has_anomalies)
        self._files = None
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
        return image_files.read(paths, labels)

    def hold(self, chosen, size: int, resize: str, room: Room, watch=unwatched, max_unreadable: float = 0.0):
        """Decode images in one pass and leave out those that cannot be decoded, each of which is logged.

        Args:
          chosen: the result of `chosen`.
          size: side in pixels.
          resize: what becomes of images that are not square, see `views.prepare`.
          room: holds the images.
          watch: see `Room.hold`.
          max_unreadable: the share of the files that may be left out.

        Returns:
          uint8 [m, size, size, 3], an array or `StoredImages`; their paths [m]; and their class numbers int64 [m].

        Raises:
          UsageError: more cannot be decoded; names the first of them and the number of others.
        """
        files, labels = chosen
        reading = FileReading(files, size, resize, max_unreadable)
        images, _ = room.hold(reading, watch)
        if reading.unreadable:
            bad = reading.names_of_unreadable()
            _logger.warning("%d of %d images cannot be read and are left out:", len(bad), len(files))
            for path in bad:
                _logger.warning("  %s %s", printable(path), image_files.reason(path))
            self.leave_out(bad)
            images = without(images, reading.unreadable)
            left = np.delete(np.arange(len(files)), reading.unreadable)
            files, labels = [files[number] for number in left], labels[left]
        return images, files, labels

    def leave_out(self, paths) -> None:
        """Leave out some files, by their full paths."""
        self._layout = self._layout.without(paths)
        self._files = None

    def names(self, split: str, classes=None) -> list[str]:
        """Return the paths of images within the folder; the arguments are those of `read`."""
        return [printable(os.path.relpath(path, self.path)) for path in self.chosen(split, classes)[0]]

    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Return height, width and channels of the first image whose header can be read."""
        for split in SPLITS:
            for path, _ in self._names(split):
                try:
                    with Image.open(path) as image:
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
        one = repeated == 1
        what = "link to an image that is read already was" if one else "links to images that are read already were"
        _logger.warning("%d %s left out", repeated, what)
