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
from mcl_tf.data.layouts import SPLITS
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
        return image_files.read(paths, labels)

    def check(self, parts, watch, max_unreadable: float = 0.0) -> int:
        """Decode all images of some parts and leave out those that cannot be decoded, see `Source.check`."""
        paths = [path for split, classes in parts for path in self.chosen(split, classes)[0]]
        bad = image_files.find_bad(paths, watch)
        if not bad:
            return 0
        if len(bad) > max_unreadable * len(paths):
            limit = f". At most {max_unreadable:.3g} of the {len(paths)} images may be unreadable"
            raise UsageError(image_files.describe_bad(bad) + (limit if max_unreadable else ""))
        _logger.warning("%d of %d images cannot be read and are left out:", len(bad), len(paths))
        for path in bad:
            _logger.warning("  %s %s", printable(path), image_files.reason(path))
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
        one = repeated == 1
        what = "link to an image that is read already was" if one else "links to images that are read already were"
        _logger.warning("%d %s left out", repeated, what)
