"""Images on disk: uint8 [n, s, s, 3] in a file, of which any rows are read in any order.

The file has NumPy's own format, so that `numpy.load(path, mmap_mode="r")` reads it, too. All rows have one size, and so
the place of a row follows from its number. ArrayRecord, also through `tfds.data_source`, and Grain are made for records
of any size: they frame every record and keep an index of them, and each is one more package.

Rows are read with one call of the system each, not through a memory map. A map reads what lies around a row along with
it, counts all pages that it has touched as memory of the process, and ends the process where a disk fails;
`benchmarks.store` compares the two.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import glob
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from mcl_tf.errors import UsageError
from mcl_tf.utils.atomic import ABANDONED, atomic_folder, remove_temporary
from mcl_tf.version import __version__

IMAGES, DESCRIPTION = "images.npy", "store.json"
_logger = logging.getLogger(__name__)
_BLOCK = 256  # images that are read at a time where all of them are
_RECENT = 60.0  # seconds; a temporary folder may be as old before it gets its lock


class StoredImages:
    """Images in a file, which behave like an array uint8 [n, s, s, 3] whose parts are read when they are asked for.

    Args:
      file: an open file that `write_images` has filled; it stays open, so that the images outlive its removal.
      key: what tells these images from others, see `key_of`; empty if nothing does.

    Attributes:
      key: see above.
      shape: (n, s, s, 3).
      dtype: uint8.

    Raises:
      ValueError: the file does not hold such images.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, file, key: str = ""):
        file.seek(0)
        np.lib.format.read_magic(file)
        shape, in_columns, dtype = np.lib.format.read_array_header_1_0(file)
        self._file, self._start, self.key = file, file.tell(), key
        self._image = shape[1:]
        self._rows = np.arange(shape[0])
        size = self._start + int(np.prod(shape, dtype=np.int64))
        if in_columns or dtype != self.dtype or len(shape) != 4 or os.fstat(file.fileno()).st_size != size:
            raise ValueError(f"{file.name} does not hold uint8 [n, s, s, 3]")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (n, s, s, 3)."""
        return (len(self._rows), *self._image)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> np.ndarray:
        """Read images: uint8 [s, s, 3] for a number, [m, s, s, 3] for a slice, numbers [m] or a mask [n].

        Raises:
          OSError: the file cannot be read.
        """
        rows = self._rows[index]
        images = np.empty((rows.size, *self._image), np.uint8)
        for image, row in zip(images, np.ravel(rows).tolist(), strict=True):
            if os.preadv(self._file.fileno(), [image], self._start + row * image.nbytes) != image.nbytes:
                raise OSError(errno.EIO, "has become shorter", self._file.name)
        return images if rows.ndim else images[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def select(self, chosen) -> StoredImages:
        """Return some of the images without reading them; `chosen` is numbers int [m] or a mask bool [n]."""
        other = copy.copy(self)
        other._rows = self._rows[chosen]
        other.key = key_of(self.key, hashlib.blake2b(other._rows.tobytes()).hexdigest()) if self.key else ""
        return other


def select(images, chosen):
    """Return some images of an array, or of `StoredImages` without reading them; all in their order without a copy.

    Args:
      images: uint8 [n, s, s, 3].
      chosen: numbers int [m], or a mask bool [n].
    """
    everything = np.arange(len(images))
    if np.array_equal(everything[chosen], everything):
        return images
    return images.select(chosen) if isinstance(images, StoredImages) else images[chosen]


def reader(images) -> Callable:
    """Return a function from numbers int64 [m] to images uint8 [m, s, s, 3], both tensors, for the maps of a dataset.

    Args:
      images: uint8 [n, s, s, 3], an array or `StoredImages`.
    """

    def read(rows):
        # A constant of TensorFlow would hold the images a second time, and a third time while the dataset is optimized.
        chosen = tf.numpy_function(images.__getitem__, [rows], tf.uint8, stateful=False)
        return tf.ensure_shape(chosen, [rows.shape[0], *images.shape[1:]])

    return read


def as_dataset(images, rows, *columns) -> tf.data.Dataset:
    """Return a dataset of single images with one value of every column.

    Args:
      images: uint8 [n, s, s, 3], an array or `StoredImages`.
      rows: int64 [m], the numbers of the images.
      *columns: arrays [m].
    """
    read = reader(images)
    chosen = tf.data.Dataset.from_tensor_slices((np.asarray(rows, np.int64), *columns))
    return chosen.map(lambda row, *values: (read(row[None])[0], *values), tf.data.AUTOTUNE, deterministic=True)


def write_images(file, batches: Iterable[np.ndarray]) -> int:
    """Write batches uint8 [m, s, s, 3] to a file opened for writing; return the number of images."""
    count, shape = 0, (0, 0, 3)
    for batch in batches:
        if not count:
            shape = batch.shape[1:]
            _write_header(file, count, shape)
        file.write(np.ascontiguousarray(batch).data)
        count += len(batch)
    file.seek(0)
    _write_header(file, count, shape)  # NumPy leaves room for any number of rows
    file.flush()
    return count


def _write_header(file, count: int, shape) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(file, header)


def key_of(*parts) -> str:
    """Return the name of the store of some images, which follows from all that decides about their pixels."""
    parts = (__version__, tf.__version__, *parts)
    digest = hashlib.blake2b(digest_size=10)
    for part in parts:
        digest.update(os.fsencode(str(part)) + b"\0")
    return digest.hexdigest()


def find(cache_dir: pathlib.Path, key: str) -> tuple[StoredImages, dict] | None:
    """Return the images of a store and what was written with them; None if there is none, or none that is whole."""
    folder = cache_dir / key
    try:
        contents = json.loads((folder / DESCRIPTION).read_text())
        images = StoredImages(open(folder / IMAGES, "rb"), key)  # noqa: SIM115 - stays open while they are used
    except (OSError, ValueError):
        return None
    is_whole = isinstance(contents, dict) and contents.get("count") == len(images)
    return (images, contents) if is_whole else None


def obtain(
    cache_dir: pathlib.Path, key: str, batches: Iterable[np.ndarray], contents: Callable, expected: int = 0
) -> tuple[StoredImages, dict]:
    """Return the images of a store, which is written if it is not there yet.

    Of several processes that need it at once, one writes and the others wait for it. Where the file system has no
    locks, each of them writes, and the last one replaces the others. What a killed process has left behind is removed.

    Args:
      cache_dir: the folder of all stores.
      key: the name of the store.
      batches: the images, batches uint8 [m, s, s, 3]; read if they are needed.
      contents: function that returns, after that, what is written with them, a dictionary for JSON.
      expected: the number of bytes that they take, if it is known.

    Raises:
      UsageError: the folder cannot be written.
    """
    found = find(cache_dir, key)
    if found is not None:
        return found
    with _explained(cache_dir), _alone(cache_dir, key) as is_alone:
        found = find(cache_dir, key)
        if found is None:
            remove_temporary(cache_dir, "*", _RECENT if is_alone else ABANDONED)
            remove_temporary(cache_dir, glob.escape(key), 0.0 if is_alone else ABANDONED)
            _refuse_strangers(cache_dir / key)
            _check_space(cache_dir, expected)
            with atomic_folder(cache_dir / key) as folder:
                with open(folder / IMAGES, "wb") as file:
                    count = write_images(file, batches)
                (folder / DESCRIPTION).write_text(json.dumps({"count": count, **contents()}) + "\n")
            found = find(cache_dir, key)
    if found is None:
        raise UsageError(f"cache_dir {cache_dir} does not keep what is written to it. Choose another cache_dir")
    return found


def obtain_unnamed(cache_dir: pathlib.Path, batches: Iterable[np.ndarray], expected: int = 0) -> StoredImages:
    """Return images in a file without a name, which ends with the process.

    Args:
      cache_dir: a folder of its file system.
      batches: see `obtain`.
      expected: see `obtain`.

    Raises:
      UsageError: the folder cannot be written.
    """
    with _explained(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        _check_space(cache_dir, expected)
        file = tempfile.TemporaryFile(dir=cache_dir)  # noqa: SIM115 - stays open as long as the images are used
        write_images(file, batches)
        return StoredImages(file)


@contextlib.contextmanager
def _explained(cache_dir: pathlib.Path):
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"The images exceed memory_limit, and cache_dir {cache_dir} cannot hold them: "
            f"{error.strerror or error}. Choose another cache_dir or a larger memory_limit"
        ) from None


@contextlib.contextmanager
def _alone(cache_dir: pathlib.Path, key: str) -> Iterator[bool]:
    """Context manager that waits until no other process writes the store; yields whether locks tell."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with open(cache_dir / f".{key}.lock", "wb") as file:
        try:
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _logger.info("Waiting for another process, which writes %s.", cache_dir / key)
                fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # neither this system nor this file system has such locks
            yield False
        else:
            yield True


def _check_space(cache_dir: pathlib.Path, expected: int) -> None:
    """Fail before hours of decoding, and not after them, where the images cannot be written."""
    if shutil.disk_usage(cache_dir).free < expected:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for {expected / 2**30:.1f} GiB")


def _refuse_strangers(folder: pathlib.Path) -> None:
    """Refuse to replace a folder that holds anything besides the files of a store."""
    if folder.exists() and not (folder.is_dir() and set(os.listdir(folder)) <= {IMAGES, DESCRIPTION}):
        raise FileExistsError(errno.EEXIST, f"{folder.name} in it holds other files")
