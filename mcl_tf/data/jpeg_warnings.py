"""Finds damaged JPEG that a decoder makes up for.

libjpeg decodes a JPEG whose inside is damaged, and fills what it cannot read with grey. It reports that on standard
error alone, without the name of the file, and so do all decoders that are built on it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

import tensorflow as tf

DAMAGED = "is a JPEG with damaged data"  # the end of a sentence
_WARNING = re.compile(
    rb"^(Corrupt JPEG data|Premature end of JPEG|Inconsistent progression sequence|Invalid SOS parameters).*\n?", re.M
)
_lock = threading.RLock()


class Warnings:
    """What decoders have reported.

    Attributes:
      found: whether there was a warning; known at the end of `heard`.
    """

    found = False
    _messages = None

    def length(self) -> int:
        """Return the number of bytes that were written to standard error so far, by any thread."""
        return 0 if self._messages is None else os.fstat(self._messages.fileno()).st_size


@contextlib.contextmanager
def heard(contents=None, quiet: bool = False) -> Iterator[Warnings]:
    """Context manager that catches the warnings of libjpeg; all else comes out on standard error at its end.

    One thread at a time is inside, because standard error belongs to the process.

    Args:
      contents: the bytes of the images, if they are known; nothing is caught if there is no JPEG among them.
      quiet: whether to discard all else, too, where every file that cannot be decoded is reported by name.

    Yields:
      `Warnings`.
    """
    warnings = Warnings()
    if contents is not None and not any(map(_is_jpeg, contents)):
        yield warnings
        return
    with _lock, contextlib.ExitStack() as stack:
        try:
            sys.stderr.flush()
            screen = os.dup(2)
        except (AttributeError, OSError, ValueError):  # there is no standard error
            yield warnings
            return
        stack.callback(os.close, screen)
        messages = stack.enter_context(_memory_file())
        os.dup2(messages.fileno(), 2)
        warnings._messages = messages
        try:
            yield warnings
        finally:
            warnings._messages = None
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os.dup2(screen, 2)
            messages.seek(0)
            text = messages.read()
            warnings.found = _WARNING.search(text) is not None
            rest = b"" if quiet else _WARNING.sub(b"", text)
            if rest:
                os.write(2, rest)


def _memory_file():
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _is_jpeg(contents: bytes) -> bool:
    return contents.startswith(b"\xff\xd8\xff")


def is_damaged(contents: bytes) -> bool:
    """Return whether a decoder warns of an image; always false for formats other than JPEG."""
    if not _is_jpeg(contents):
        return False
    with heard(quiet=True) as warnings, contextlib.suppress(tf.errors.OpError):
        tf.io.decode_jpeg(contents)
    return warnings.found
