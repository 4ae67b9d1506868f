"""Errors that end a run with one line, and helpers for messages of one line."""

from __future__ import annotations

import re
import unicodedata

_ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, separators of lines and paragraphs


class UsageError(ValueError):
    """Invalid input; the message is one line that says what is possible and what was received."""


class TrainingInterrupted(RuntimeError):
    """Training stopped before its end and can be resumed.

    Attributes:
      code: int, the exit code for a command line: 128 + n after signal n, 3 after the loss of another worker.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def one_line(error: BaseException, limit: int | None = 200) -> str:
    """Return an error's message as one line.

    Args:
      error: the error; its type's name is used if it has no message.
      limit: the maximum number of characters; None for no limit.
    """
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    text = re.sub(r"\{\{\w+ [^{}]*\}\}", "", str(text))  # TensorFlow's node name can fill the whole limit
    return " ".join(text.split())[:limit]


def printable(name: str) -> str:
    """Return a file name as one line of valid Unicode; file names may hold line ends, terminal codes or other bytes."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _ESCAPED else c for c in name)
