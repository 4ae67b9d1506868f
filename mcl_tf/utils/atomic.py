"""Atomic writes: a file or folder appears complete under its name, or not at all.

Contents are written under a temporary name in the same folder, flushed to the disk and renamed. After a crash at any
moment, either the old or the new contents are there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

_WORKING_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


@contextlib.contextmanager
def atomic_file(path, mode: str = "w", **kwargs) -> Iterator:
    """Context manager that yields a file to write and renames it to `path` at the end.

    Args:
      path: the file to create or replace; its folder must exist.
      mode: "w" or "wb".
      **kwargs: arguments of `open`, e.g. `encoding`.

    Raises:
      OSError: the file cannot be written; an old file stays as it was.
    """
    path = pathlib.Path(path)
    temporary = temporary_path(path)
    try:
        with open(temporary, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path) -> Iterator[pathlib.Path]:
    """Context manager that yields an empty folder to fill and renames it to `path` at the end.

    Args:
      path: the folder to create or replace; its parent must exist.

    Raises:
      OSError: the folder cannot be written; an old folder stays as it was.
    """
    path = pathlib.Path(path)
    temporary = temporary_path(path)
    try:
        temporary.mkdir()
        yield temporary
        sync_tree(temporary)
        replace_folder(temporary, path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Rename a folder; one that is at the target already gets the name of the source.

    Linux exchanges the two names in one operation on most file systems. Elsewhere the old folder is renamed aside
    first, and back if the second rename fails.

    Raises:
      OSError: the folder cannot be renamed; the target stays as it was.
    """
    if not target.exists():
        os.rename(source, target)
    elif not _exchange(source, target):
        aside = temporary_path(target)
        try:
            os.rename(target, aside)
            os.rename(source, target)
        except BaseException:  # Ctrl-C may arrive between the two
            if not target.exists():
                os.rename(aside, target)
            raise
        os.rename(aside, source)


def _exchange(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Exchange two names atomically; return whether the system could."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(_WORKING_FOLDER, os.fsencode(first), _WORKING_FOLDER, os.fsencode(second), _EXCHANGE) == 0


def temporary_path(path: pathlib.Path) -> pathlib.Path:
    """Return an unused hidden name beside a path; it differs at every call."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def remove_temporary(folder: pathlib.Path, name: str) -> None:
    """Remove what interrupted writes of `folder/name`, a glob pattern, have left behind."""
    for leftover in folder.glob(f".{name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def sync_tree(folder: pathlib.Path) -> None:
    """Wait until a folder with all its contents is on the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: pathlib.Path) -> None:
    """Wait until a file, or the list of a folder's entries, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
