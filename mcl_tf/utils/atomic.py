"""Atomic writes: a file or folder appears complete under its name, or not at all.

Contents are written under a temporary name in the same folder, flushed to the disk and renamed. After a crash at any
moment, either the old or the new contents are there.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pathlib
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator

ABANDONED = 3600.0  # seconds without a change, after which a temporary folder without a lock has no writer
_WORKING_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
# The ending is the mark of this library. ".old" is a folder that a replacement has renamed aside.
_TEMPORARY, _ASIDE = ".mcl_tf.tmp", ".old.mcl_tf.tmp"
_NAME = re.compile(r"\.(.+)\.[0-9a-f]{12}(\.old)?\.mcl_tf\.tmp")


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
    with temporary_folder(path) as temporary:
        yield temporary
        sync_tree(temporary)
        replace_folder(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def temporary_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Context manager that yields an empty hidden folder beside a path; what has its name at the end is removed.

    A lock tells other processes that its writer is alive.

    Raises:
      OSError: the folder cannot be created.
    """
    temporary = temporary_path(path)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, temporary, ignore_errors=True)
        temporary.mkdir()
        handle = os.open(temporary, os.O_RDONLY)
        stack.callback(os.close, handle)
        _lock(handle)
        yield temporary


def replace_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Rename a folder; one that is at the target already gets the name of the source, or is removed.

    Linux exchanges the two names in one operation on most file systems. Elsewhere the old folder is renamed aside
    first, and back if the second rename fails. If the process ends between the two, `recovered` finds the old folder.

    Raises:
      OSError: the folder cannot be renamed; the target stays as it was.
    """
    if not target.exists():
        os.rename(source, target)
    elif not _exchange(source, target):
        aside = temporary_path(target, _ASIDE)
        try:
            os.rename(target, aside)
            os.rename(source, target)
        except BaseException:  # Ctrl-C may arrive between the two
            if not target.exists():
                os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def recovered(path: pathlib.Path) -> pathlib.Path:
    """Return a folder, or its old contents if a replacement ended between its two renames."""
    aside = () if path.exists() else path.parent.glob(f".{glob.escape(path.name)}.*{_ASIDE}")
    return next(iter(sorted(aside)), path)


def _exchange(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Exchange two names atomically; return whether the system could."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return rename(_WORKING_FOLDER, os.fsencode(first), _WORKING_FOLDER, os.fsencode(second), _EXCHANGE) == 0


def temporary_path(path: pathlib.Path, ending: str = _TEMPORARY) -> pathlib.Path:
    """Return an unused hidden name beside a path; it differs at every call, in every process."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ending}")


def remove_temporary(folder: pathlib.Path, name: str = "*", age: float = 0.0) -> None:
    """Remove the temporary folders that interrupted writes of `folder/name` have left behind.

    A folder whose writer holds its lock stays, and so does an old folder whose replacement has not come into place.

    Args:
      folder: where they lie.
      name: a glob pattern.
      age: seconds since the last change of a folder; file systems without locks need some.
    """
    for leftover in folder.glob(f".{name}.*{_TEMPORARY}"):
        parts = _NAME.fullmatch(leftover.name)
        waits = parts is None or (parts[2] and not (folder / parts[1]).exists())
        if not waits and _is_abandoned(leftover, age):
            shutil.rmtree(leftover, ignore_errors=True)


def _is_abandoned(folder: pathlib.Path, age: float) -> bool:
    """Return whether the writer of a temporary folder no longer exists."""
    try:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or time.time() - status.st_mtime < age:
            return False
        handle = os.open(folder, os.O_RDONLY)
        try:
            return _lock(handle)
        finally:
            os.close(handle)
    except OSError:  # another process has removed it
        return False


def _lock(handle: int) -> bool:
    """Lock a folder until its handle is closed; return False if another handle holds the lock."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # neither this system nor this file system has such locks
        pass
    return True


def try_folder(folder: pathlib.Path) -> None:
    """Create and remove a folder where `folder` is or, as long as it is missing, in the closest folder above it.

    Raises:
      OSError: nothing can be written there.
    """
    while not folder.exists():
        folder = folder.parent
    trial = temporary_path(folder / "trial")
    trial.mkdir()
    trial.rmdir()


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
