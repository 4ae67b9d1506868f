"""How people lay out images in folders: which are for training, which for the test, and what their classes are.

Four layouts are recognised: folders `train` and `test` with a folder per class (MVTec AD and many others), `train`
alone, a folder per class without `train` and `test`, and images of one class without any such folder. A table in CSV
says the same of images that lie anywhere.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import itertools
import math
import os

from mcl_tf.data import listing, paths
from mcl_tf.errors import UsageError, printable

SPLITS = ("train", "test")
ENDINGS = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ONE_CLASS = "good"  # the name, as in MVTec AD, of images that lie in no folder of a class
POSSIBLE = (
    "a folder DIR with images in DIR/train/<class>/ and DIR/test/<class>/, in DIR/train/<class>/ alone, in "
    "DIR/<class>/, or of one class in DIR; or a table FILE.csv with the columns path, label, split"
)
_TEST_SHARE = 0.2  # of the normal images, where a layout does not say which of them are for the test
MASKS = "ground_truth"  # folder of MVTec AD that holds no images to score


@dataclasses.dataclass(frozen=True)
class Layout:
    """What was recognised.

    Attributes:
      kind: its name, for a message.
      classes: {split: {class: sorted paths}}.
      base: the folder that paths are relative to.
      undivided: whether the layout does not say which images are for the test; then all of them are in `train`.
      found: {split or "": what was listed there}.
    """

    kind: str
    classes: dict[str, dict[str, list[str]]]
    base: str
    undivided: bool = False
    found: dict[str, listing.Listing] = dataclasses.field(default_factory=dict)

    def divided(self, normal, seed: int, has_anomalies: bool = False) -> Layout:
        """Decide which images are for the test, where the layout does not say.

        If there are anomalies, they are for the test, with a fifth of the images of every normal class. The names of
        the images and the seed decide which; a new image changes at most one of the others.

        Args:
          normal: names of the normal classes; none if all images are for the test.
          seed: the seed.
          has_anomalies: whether there are anomalies besides the images of other classes.
        """
        if not self.undivided:
            return self

        def draw(path):
            name = os.fsencode(os.path.relpath(path, self.base))
            return hashlib.sha256(b"%d %s" % (seed, name)).digest()

        train, test = {}, {}
        share = _TEST_SHARE if has_anomalies or set(normal) < set(self.classes["train"]) else 0.0
        for name, images in self.classes["train"].items():
            count = math.ceil(share * len(images)) if len(images) > 1 else 0
            chosen = set(sorted(images, key=draw)[:count] if name in normal else images)
            train[name] = [path for path in images if path not in chosen]
            test[name] = [path for path in images if path in chosen]
        return dataclasses.replace(self, classes={"train": train, "test": test})

    def without(self, left_out) -> Layout:
        """Return the layout without some of its files."""
        left_out = set(left_out)
        classes = {
            split: {name: [path for path in images if path not in left_out] for name, images in folders.items()}
            for split, folders in self.classes.items()
        }
        return dataclasses.replace(self, classes=classes)


def recognise(path: str) -> Layout:
    """Recognise the layout of a folder, or read a table.

    Args:
      path: a folder, or a file whose name ends in .csv.

    Raises:
      UsageError: it does not exist, cannot be read, or names what is no image.
    """
    if paths.is_table(path) and not os.path.isdir(path):
        return _read_table(path)
    if not os.path.isdir(path):
        raise UsageError(f"There is no such folder. Possible: {POSSIBLE}. Received: {path}")
    if any(os.path.isdir(os.path.join(path, split)) for split in SPLITS):
        return _with_splits(path)
    found = _list(path)
    masks = os.path.join(path, MASKS, "")
    found = dataclasses.replace(found, files=[file for file in found.files if not file.startswith(masks)])
    folders = _by_folder(path, found.files)
    if "" in folders:
        images = sorted(itertools.chain(*folders.values()))
        kind, classes = "a folder of images of one class", {ONE_CLASS: images}
    else:
        kind, classes = "a folder per class, without train and test", folders
    return Layout(kind, {"train": classes, "test": {}}, path, True, {"": found})


def is_image(path: str) -> bool:
    """Return whether the name of a file has an ending of the formats that are read."""
    return path.lower().endswith(ENDINGS)


def _with_splits(path: str) -> Layout:
    found = {split: _list(os.path.join(path, split)) for split in SPLITS if os.path.isdir(os.path.join(path, split))}
    classes = {}
    for split in SPLITS:
        listed = found.get(split, listing.Listing()).files
        classes[split] = _by_folder(os.path.join(path, split), listed)
        outside = classes[split].pop("", [])
        if split == "train" and not classes[split] and outside:
            classes[split] = {ONE_CLASS: outside}
    kind = f"the folder{'s' * (len(found) > 1)} {' and '.join(found)}"
    return Layout(kind, classes, path, found=found)


def _list(folder: str) -> listing.Listing:
    """List the files of a folder.

    Raises:
      UsageError: a folder cannot be listed.
    """
    found = listing.find_files(folder)
    if found.failed:
        path, reason = found.failed[0]
        more = f" (and {len(found.failed) - 1} more)" if len(found.failed) > 1 else ""
        raise UsageError(f"{printable(path)} {reason}{more}")
    return found


def _by_folder(base: str, files) -> dict[str, list[str]]:
    """Return {folder in `base`: paths of the images in it, at any depth}; "" has those that lie in `base` itself.

    Raises:
      UsageError: an image is no file.
    """
    classes = collections.defaultdict(list)
    for path in filter(is_image, files):
        name, *rest = os.path.relpath(path, base).split(os.sep)
        _check_file(path)
        classes[name if rest else ""].append(path)
    return dict(classes)


def _check_file(path: str) -> None:
    if not os.path.isfile(path):
        raise UsageError(f"{printable(path)} is a pipe, a device or a link to nowhere, not an image")


def _read_table(path: str) -> Layout:
    """Read a table with the columns `path`, relative to the table, and, if they are needed, `label` and `split`.

    Raises:
      UsageError: it cannot be read, lacks the column, or names a file that is missing or named twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as table:
            reader = csv.DictReader(table)
            columns, rows = reader.fieldnames or [], list(reader)
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if "path" not in columns:
        raise UsageError(
            f"{path} must have a column path, and may have label and split. Received: {', '.join(columns)}"
        )
    base = os.path.dirname(path) or os.curdir
    files = [os.path.join(base, row["path"] or "") for row in rows]
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UsageError(f"{path} must name files. Received: {printable(missing[0])}{more}")
    repeated = [file for file, count in collections.Counter(map(os.path.realpath, files)).items() if count > 1]
    if repeated:
        raise UsageError(f"{path} must name every file once. Received: {printable(repeated[0])} twice")
    classes: dict = {split: collections.defaultdict(list) for split in SPLITS}
    for row, file in sorted(zip(rows, files, strict=True), key=lambda pair: pair[1]):
        split = row["split"] if "split" in columns else "train"
        if split not in SPLITS:
            raise UsageError(
                f"{path} must say train or test in the column split. Received: {split!r} for {row['path']}"
            )
        classes[split][row.get("label") or ONE_CLASS].append(file)
    return Layout("a table", {split: dict(files) for split, files in classes.items()}, base, "split" not in columns)
