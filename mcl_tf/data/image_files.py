"""Image files by their paths: reading them, and saying why one cannot be read."""

from __future__ import annotations

import functools
import os
import stat

import numpy as np
import tensorflow as tf

from mcl_tf.config import DataConfig
from mcl_tf.data import decoding, jpeg_warnings, rare_formats
from mcl_tf.errors import printable
from mcl_tf.utils import compat

MAX_BYTES = 2**29  # per file; encoded images are smaller

# In a single pass there is nothing to tune, and the tuning thread can take half a second to end.
UNTUNED = tf.data.Options()
UNTUNED.autotune.enabled = False
# What is decoded by a call of Python waits for TensorFlow's own threads, and must not be one of them.
_DECODING = tf.data.Options()
_DECODING.autotune.enabled = False
_DECODING.threading.private_threadpool_size = os.cpu_count() or 1


def read(paths, labels=None) -> tf.data.Dataset:
    """Return the images of files, in order, each of its own size.

    Args:
      paths: the files.
      labels: int64 [n], or None.

    Returns:
      A dataset of (image uint8 [h, w, 3], label int64), or of images alone. A file that cannot be decoded raises an
      error of TensorFlow, which `reason` explains.
    """
    data = tf.data.Dataset.from_tensor_slices((_as_bytes(paths), *(() if labels is None else (labels,))))

    def decode(path, *label):
        image = decoding.decode_at_own_size(tf.io.read_file(path))
        return (image, *label) if label else image

    return data.map(decode, tf.data.AUTOTUNE, deterministic=True).with_options(_DECODING)


def is_damaged(path: str) -> bool:
    """Return whether a decoder warns of the image in a file, see `jpeg_warnings.is_damaged`."""
    return jpeg_warnings.is_damaged(read_bytes(path)[0])


def _as_bytes(paths):
    return tf.constant([os.fsencode(path) for path in paths], tf.string, shape=[len(paths)])


def describe_bad(bad) -> str:
    """Return a message that names the first of some files that cannot be decoded, and the number of the others."""
    count = len(bad) - 1
    more = f" (and {count} more file{'s' * (count > 1)} cannot be read)" if count else ""
    return f"{printable(str(bad[0]))} {reason(bad[0])}{more}"


def reason(path) -> str:
    """Return why a file is not an image, as the end of a sentence."""
    contents, failure = read_bytes(path)
    if failure:
        return failure
    with jpeg_warnings.heard(quiet=True):
        return make_decoder(1)([contents])[1][0] or "cannot be decoded"


def read_bytes(name) -> tuple[bytes, str]:
    """Read a file; return its bytes and "", or no bytes and the reason, as the end of a sentence."""
    try:
        status = os.stat(name)
        if not stat.S_ISREG(status.st_mode):
            return b"", "is not a regular file"  # reading a pipe would block
        if status.st_size > MAX_BYTES:
            return b"", f"has more than {MAX_BYTES} bytes"
        with open(name, "rb", buffering=0) as file:
            return file.readall(), ""
    except OSError as error:
        return b"", f"cannot be read: {error.strerror or error}"


@functools.lru_cache(maxsize=4)  # tracing takes seconds
def make_decoder(size: int, resize: str = DataConfig.resize):
    """Return a function from a list of bytes [n] to (uint8 [n, size, size, 3], reasons str [n]); it is thread-safe."""
    decode = compat.graph(lambda contents: decoding.decode(contents, size, resize), [None], tf.string)

    def decode_bytes(contents):
        contents, failures = zip(*map(rare_formats.for_graph, contents), strict=True)
        with jpeg_warnings.heard(contents) as warnings:
            images, reasons = decode(tf.constant(contents, tf.string, shape=[len(contents)]))
        found = zip(failures, (reason.decode() for reason in reasons.numpy()), strict=True)
        reasons = np.array([failure or decoding.for_files(reason) for failure, reason in found], object)
        if warnings.found:  # by which of the images, only decoding them one by one can tell
            for index in np.flatnonzero(reasons == ""):
                reasons[index] = jpeg_warnings.DAMAGED if jpeg_warnings.is_damaged(contents[index]) else ""
        return images.numpy(), reasons

    return decode_bytes
