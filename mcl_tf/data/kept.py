"""Images that are decoded once and held, for many runs on the same datasets."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.data import store
from mcl_tf.data.layouts import SPLITS
from mcl_tf.data.room import Room, unwatched
from mcl_tf.data.source import Source
from mcl_tf.data.sources import load_source
from mcl_tf.data.tasks import choose_sizes
from mcl_tf.errors import UsageError
from mcl_tf.utils.console import tracked


class KeptSources:
    """Opens datasets by name; every one is listed and decoded once, whatever the number of runs that read it.

    Args:
      config: the configuration of the runs.

    Attributes:
      failure: the error of images that cannot be read, which no run can do without; None if there is none.
    """

    def __init__(self, config: Config | None = None):
        self.failure: UsageError | None = None
        self._config = config or Config()
        self._room = Room(self._config.run)
        self._size = 0
        self._sources: dict[tuple, Source] = {}

    def load(self, name: str, data_dir: str = "", splits=SPLITS, also=()) -> Source:
        """Open a dataset, see `load_source`.

        Returns:
          A source of the same images, in the same order and equal to the bit.
        """
        key = (name, data_dir, splits)
        if key not in self._sources:
            source = load_source(name, data_dir, splits, also)
            has_files = [split for split in SPLITS if source.files(split)]
            try:
                self._hold(source, has_files)
            except UsageError as error:
                self.failure = error
                raise
            # Files are known by their paths, whatever split a run draws them for; other images are kept by split.
            self._sources[key] = source if has_files else _KeptSource(source, self._room)
        return self._sources[key].copy()

    def _hold(self, source: Source, splits) -> None:
        """Read the files of a source once, at the size of the first dataset, which is that of all runs."""
        data, score = self._config.data, self._config.scoring.score
        for split in splits:
            if not self._size:
                with source.heard():
                    images = source.read(split).map(lambda image, _: image)
                    self._size = choose_sizes(data, score, source.image_shape, images)[1]
            source.hold(split, None, self._size, data.resize, self._room, tracked, data.max_unreadable)


class _KeptSource(Source):
    """A source without files, whose images are held once for all runs.

    Args:
      original: the source.
      room: holds the images.
    """

    def __init__(self, original: Source, room: Room):
        super().__init__(original.name, original.class_names, original.image_shape)
        self._original, self._room = original, room
        self._held: dict[tuple[str, int, str], tuple] = {}  # (images, labels) by split, size and resize

    def read(self, split: str, classes=None) -> tf.data.Dataset:
        """See `Source.read`; these images are read again."""
        return self._original.read(split, classes)

    def hold(self, split: str, classes, size: int, resize: str, room: Room, watch=unwatched, max_unreadable=0.0):
        """See `Source.hold`."""
        del room, max_unreadable
        images, labels = self._whole(split, size, resize, watch)
        rows = _rows_of(labels, classes)
        return store.select(images, rows), labels[rows]

    def prepared(self, split: str, classes, size: int, resize: str) -> tf.data.Dataset:
        """See `Source.prepared`."""
        images, labels = self._whole(split, size, resize, tracked)
        rows = _rows_of(labels, classes)
        return store.as_dataset(images, rows, labels[rows])

    def _whole(self, split: str, size: int, resize: str, watch):
        key = (split, size, resize)
        if key not in self._held:
            self._held[key] = self._original.hold(split, None, size, resize, self._room, watch)
        return self._held[key]


def _rows_of(labels, classes) -> np.ndarray:
    """Return the rows of some classes, or of all for None, int64 [m]."""
    return np.arange(len(labels)) if classes is None else np.flatnonzero(np.isin(labels, classes))
