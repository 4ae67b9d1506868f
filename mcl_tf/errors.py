"""The errors that end a run in one line."""

from __future__ import annotations

import re


class UsageError(ValueError):
    """Bad input: one line that says what was received and what is possible. The command line exits with 2."""


class Stopped(RuntimeError):
    """A training that had to leave before its end and can be gone on with; `code` is the exit code.

    128 + n after signal n, 3 where another worker was lost.
    """

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def one_line(error: BaseException, limit: int | None = 200) -> str:
    """What an error says, in one line of at most `limit` characters; its type's name if it says nothing."""
    text = getattr(error, "message", None) or str(error) or type(error).__name__
    text = re.sub(r"\{\{\w+ [^{}]*\}\}", "", str(text))  # TensorFlow's node, which can be all that fits
    return " ".join(text.split())[:limit]


def printable(name: str) -> str:
    """A file's name as text of one line; names of files need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
