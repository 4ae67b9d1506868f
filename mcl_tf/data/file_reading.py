"""One pass over image files: decodes them on all cores, and finds those that cannot be decoded on the way."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Generator, Sequence

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data import decoding, image_files, jpeg_warnings, paths, store
from mcl_tf.data.room import BATCH, Reading
from mcl_tf.errors import UsageError
from mcl_tf.utils import compat, parallel

_BYTES = 2**25  # of the images that are decoded together
# Every thread keeps some cores busy; one more, because a thread is in Python between its batches.
_THREADS = -(-(os.cpu_count() or 1) // decoding.PARALLEL) + 1


class FileReading(Reading):
    """One pass over image files, see `Reading`.

    Images are decoded in batches, of which several are under way at once. libjpeg writes to standard error that it
    makes up for damage, and not where. So the files of all batches during which anything was written are suspects; they
    are tested one by one at the end of the pass, when no other thread decodes.

    Args:
      files: their paths.
      size: side in pixels.
      resize: what becomes of images that are not square, see `views.prepare`.
      max_unreadable: the share of the files that may be unreadable.
    """

    def __init__(self, files: Sequence, size: int, resize: str = DataConfig.resize, max_unreadable: float = 0.0):
        self._files = [os.fspath(file) for file in files]
        self.size, self.count = size, len(files)
        self._resize, self._max_unreadable = resize, max_unreadable
        self.unreadable: list[int] = []

    @functools.cached_property
    def key(self) -> str:
        """The name of the store: the same files, unchanged, at the same size."""
        states = (f"{os.path.abspath(file)}: {paths.file_state(file)}" for file in self._files)
        return store.key_of("files", self.size, self._resize, *states)

    def batches(self) -> Generator:
        """See `Reading.batches`."""
        count, total = max(1, min(BATCH, _BYTES // (3 * self.size**2))), len(self._files)
        numbers = [range(start, min(start + count, total)) for start in range(0, total, count)]
        decode = _usual_decoder(self.size, self._resize)
        suspects: list[int] = []
        self.unreadable = []
        with jpeg_warnings.heard(quiet=True) as warnings:

            def read(batch):
                before = warnings.length()
                images, bad = self._decode(decode, [self._files[number] for number in batch])
                return images, [batch[place] for place in bad], warnings.length() > before

            with contextlib.closing(parallel.map_in_order(read, numbers, _THREADS)) as results:
                for batch, (images, bad, is_suspect) in zip(numbers, results, strict=True):
                    self.unreadable += bad
                    suspects += set(batch) - set(bad) if is_suspect else ()
                    yield images
        damaged = (number for number in suspects if image_files.is_damaged(self._files[number]))
        self.unreadable = sorted([*self.unreadable, *damaged])

    def _decode(self, decode, files) -> tuple[np.ndarray, list[int]]:
        """Return images uint8 [m, s, s, 3] and the numbers of those that cannot be decoded."""
        contents = [image_files.read_bytes(file)[0] for file in files]
        try:
            images, done = (part.numpy() for part in decode(tf.constant(contents, tf.string, shape=[len(contents)])))
        except tf.errors.OpError:  # one of them is damaged
            images, done = np.zeros((len(files), self.size, self.size, 3), np.uint8), np.zeros(len(files), bool)
        bad = []
        for number in np.flatnonzero(~done).tolist():
            try:
                image = decoding.decode_in_python(contents[number])
                images[number] = views.prepare(image[None], self.size, self._resize)[0].numpy()
            except (tf.errors.OpError, ValueError):
                bad.append(number)
        return images, bad

    def names_of_unreadable(self) -> list[str]:
        """Return the paths of the files that could not be read."""
        return [self._files[number] for number in self.unreadable]

    def check(self) -> None:
        """See `Reading.check`."""
        if len(self.unreadable) > self._max_unreadable * len(self._files):
            share = f"{self._max_unreadable:.3g} of the {len(self._files)} images"
            limit = f". At most {share} may be unreadable" if self._max_unreadable else ""
            raise UsageError(image_files.describe_bad(self.names_of_unreadable()) + limit)


@functools.lru_cache(maxsize=4)
def _usual_decoder(size: int, resize: str):
    traced = compat.graph(lambda contents: decoding.decode_usual(contents, size, resize), [None], tf.string)
    return traced.get_concrete_function()  # here, because several threads call it
