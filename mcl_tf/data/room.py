"""Room for images: memory up to a limit, and files beyond it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pathlib
from collections.abc import Generator, Iterable, Iterator

import numpy as np
import tensorflow as tf

from mcl_tf.config import RunConfig
from mcl_tf.constraints import bytes_of
from mcl_tf.data import store
from mcl_tf.data.store import StoredImages
from mcl_tf.utils import memory

BATCH = 64  # images that are read at a time
_SHARE = 0.5  # of the free memory
# Images are held, and once more divided into those that are trained on and those held out.
_COPIES = 2
_logger = logging.getLogger(__name__)


def unwatched(batches, description: str):
    """Return batches as they are, where no progress bar is shown."""
    del description
    return batches


class Reading:
    """One pass over the images of a dataset.

    Args:
      dataset: elements uint8 [s, s, 3], alone or with an integer label.
      key: the name of a store, see `store.key_of`; empty if only reading tells these images from others.

    Attributes:
      key: see above.
      size: the side s in pixels.
      count: the number of images; None if it is not known.
      unreadable: numbers of the images that could not be read, known at the end of the pass.
    """

    def __init__(self, dataset: tf.data.Dataset, key: str = ""):
        spec = dataset.element_spec
        self._dataset, self._key = dataset, key
        self.size = int((spec[0] if isinstance(spec, tuple) else spec).shape[0])
        count = int(dataset.cardinality())
        self.count = count if count >= 0 else None
        self.unreadable: list[int] = []

    @property
    def key(self) -> str:
        """See the attribute."""
        return self._key

    def batches(self) -> Generator:
        """Yield uint8 [m, s, s, 3], or that and int [m]; an image that cannot be read is black."""
        yield from self._dataset.batch(BATCH).as_numpy_iterator()

    def check(self) -> None:
        """Check at the end of the pass, before anything is kept, that enough images could be read.

        Raises:
          UsageError: too many of them could not be read.
        """


class Room:
    """Holds images in memory up to a limit, and in files beyond it.

    Args:
      config: `memory_limit` and `cache_dir`.
    """

    def __init__(self, config: RunConfig | None = None):
        config = config or RunConfig()
        limit, free = bytes_of(config.memory_limit), memory.available()
        if limit is None and free is not None:
            limit = int(_SHARE * free)
        self._left = limit  # None: without a limit, where the system does not say what is free
        self._cache_dir = pathlib.Path(config.cache_dir) if config.cache_dir else default_cache_dir()

    def hold(self, reading: Reading, watch=unwatched):
        """Read images in one pass, or take them from the file that an earlier run has left.

        Args:
          reading: the images.
          watch: function (batches, description) -> batches, for a progress bar.

        Returns:
          uint8 [n, s, s, 3], an array or `StoredImages`, and int64 [n] or None.

        Raises:
          UsageError: too many images cannot be read, or they exceed the memory and cannot be written to a file.
        """
        with contextlib.closing(reading.batches()) as batches:  # its threads end, whatever fails here
            labels: list[np.ndarray] = []
            images = _images_of(watch(batches, "Reading images"), labels)
            if reading.count is None:
                held = self._hold_unknown(reading, images, labels)
            elif self._fits(reading, reading.count):
                held = joined(images, reading.count, reading.size)
            else:
                held = self._store(reading, images, labels)
        if not isinstance(held, StoredImages):
            reading.check()
            self._left = None if self._left is None else self._left - _COPIES * held.nbytes
        return held, np.concatenate(labels).astype(np.int64) if labels else None

    def _fits(self, reading: Reading, count: int) -> bool:
        return self._left is None or _COPIES * count * 3 * reading.size**2 <= self._left

    def _hold_unknown(self, reading: Reading, images: Iterator, labels: list):
        """Hold images whose number is not known: in memory as long as they fit."""
        if reading.key and store.find(self._cache_dir, reading.key):
            return self._store(reading, images, labels)
        parts: list[np.ndarray] = []
        count = 0
        for part in images:
            parts.append(part)
            count += len(part)
            if not self._fits(reading, count):
                return self._store(reading, itertools.chain(parts, images), labels)
        return np.concatenate(parts) if parts else np.zeros((0, reading.size, reading.size, 3), np.uint8)

    def _store(self, reading: Reading, images: Iterable, labels: list) -> StoredImages:
        """Hold images in a file; `labels` gets those that are stored with them."""

        def contents():
            reading.check()
            return {"labels": [int(label) for part in labels for label in part], "unreadable": reading.unreadable}

        expected = (reading.count or 0) * 3 * reading.size**2
        place = self._cache_dir / reading.key if reading.key else f"a temporary file in {self._cache_dir}"
        _logger.info("The images exceed memory_limit and are read from %s.", place)
        if not reading.key:
            stored = store.obtain_unnamed(self._cache_dir, images, expected)
            reading.check()
            return stored
        stored, found = store.obtain(self._cache_dir, reading.key, images, contents, expected)
        labels[:] = [np.array(found["labels"], np.int64)] if found["labels"] else []
        reading.unreadable = found["unreadable"]
        reading.check()
        return stored


def default_cache_dir() -> pathlib.Path:
    """Return the folder of all stores: `mcl_tf` in $XDG_CACHE_HOME, or in ~/.cache where that is not set.

    It is the user's and not that of a run, because runs on the same images share them.
    """
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "mcl_tf"


def without(images, numbers):
    """Return images without some of them; an array is changed in place, because it may take half of the memory."""
    good = np.delete(np.arange(len(images)), numbers)
    if isinstance(images, StoredImages):
        return images.select(good)
    for place, number in enumerate(good.tolist()):
        if place != number:
            images[place] = images[number]
    return images[: len(good)]


def _images_of(batches: Iterable, labels: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the images of batches and collect their labels."""
    for batch in batches:
        images, *rest = batch if isinstance(batch, tuple) else (batch,)
        labels.extend(rest)
        yield images


def joined(batches: Iterable[np.ndarray], count: int, size: int) -> np.ndarray:
    """Join batches in place, because joining takes as long as decoding."""
    images = np.empty((count, size, size, 3), np.uint8)
    filled = 0
    for batch in batches:
        images[filled : filled + len(batch)] = batch
        filled += len(batch)
    return images[:filled]
