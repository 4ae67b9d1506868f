"""Version folders, saved_model/<n>, as TensorFlow Serving watches them: complete or absent.

The server only reads folders whose names are numbers. A folder that is being written or removed has a hidden name. A
file in each SavedModel lists what was written: only a folder that holds nothing else is ever replaced or removed.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable

import tensorflow as tf

from mcl_tf.errors import UsageError, one_line
from mcl_tf.export.model_card import EXTRA
from mcl_tf.utils import ownership
from mcl_tf.utils.atomic import (
    ABANDONED,
    atomic_folder,
    recovered,
    remove_temporary,
    sync,
    sync_tree,
    temporary_folder,
    temporary_path,
    try_folder,
)

MARK = f"{EXTRA}/mcl_tf.json"  # lists what this library has written
_logger = logging.getLogger(__name__)


def versions(folder: pathlib.Path) -> list[int]:
    """Return the versions in a folder, oldest first, whoever has written them."""
    return [int(path.name) for path in _numbered(folder) if path.is_dir()]


def find(path) -> pathlib.Path:
    """Return the SavedModel at a path, or the newest one if it is a folder of versions.

    Args:
      path: the folder.

    Raises:
      UsageError: there is no SavedModel.
    """
    folder = recovered(pathlib.Path(path).expanduser().resolve())
    for model in (folder, *reversed(_numbered(folder))):
        if (model / "saved_model.pb").is_file():
            return model
    raise UsageError(f"A SavedModel is a folder with saved_model.pb, or one of its versions. Received: {path}")


def check_target(folder: pathlib.Path) -> None:
    """Check that versions can be written to a folder, which need not exist.

    Raises:
      UsageError: it is a file or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"Versions of a SavedModel lie in a folder. Received: {folder}, which is a file")
    try:
        try_folder(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from None


def replace(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Write a SavedModel atomically and replace an older one.

    Args:
      path: the folder, absolute.
      write: function that fills an empty folder.

    Returns:
      The path.

    Raises:
      UsageError: the path is a file, holds anything that an export has not written, or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"A SavedModel is a folder. Received: {path}, which is a file")
    try:
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_temporary(path.parent, glob.escape(path.name), ABANDONED)
        with atomic_folder(path) as folder:
            _fill(folder, write)
            _check_replaceable(path)  # again, because writing takes a while
    except (OSError, tf.errors.OpError) as error:
        raise _cannot_write(path, error) from None
    return path


def add(folder: pathlib.Path, write: Callable[[pathlib.Path], None], keep: int = 0) -> pathlib.Path:
    """Write the next version atomically, then remove the oldest ones that an export has written.

    Its number is above those of all files and folders whose names are numbers.

    Args:
      folder: the folder of versions.
      write: function that fills an empty folder.
      keep: the number of newest versions to keep; 0 keeps all.

    Returns:
      The path of the new version.

    Raises:
      UsageError: the folder is a file or cannot be written.
    """
    check_target(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_temporary(folder, age=ABANDONED)
        with temporary_folder(folder / "new") as temporary:
            _fill(temporary, write)
            sync_tree(temporary)
            path = _rename_to_next(temporary, folder)
            sync(folder)
    except (OSError, tf.errors.OpError) as error:
        raise _cannot_write(folder, error) from None
    if keep:
        own = [version for version in _numbered(folder) if _written(version) is not None]
        for version in own[:-keep]:
            _remove(version)
    return path


def _numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files and folders in a folder whose names are numbers, in the order of these."""
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in entries if p.name.isascii() and p.name.isdecimal()), key=lambda p: int(p.name))


def _fill(folder: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Let a function fill a folder, and write the list of its contents."""
    write(folder)
    mark = folder / MARK
    mark.unlink(missing_ok=True)
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(json.dumps({"files": ownership.contents(folder)}, indent=2) + "\n")


def _written(folder: pathlib.Path) -> ownership.Contents | None:
    """Return what an export has written into a folder; None for a link and for what no export has written."""
    mark = folder / MARK
    try:
        files = json.loads(mark.read_text())["files"]
        return {**files, MARK: mark.stat().st_size} if not folder.is_symlink() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_replaceable(path: pathlib.Path) -> None:
    try:
        ownership.check_replaceable(path, _written(path), "A SavedModel")
    except UsageError as error:
        hint = "; new_version adds a version to a folder" if versions(path) else ""
        raise UsageError(f"{error}{hint}") from None


def _rename_to_next(temporary: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Claim the next number: only one of two processes can, because a folder with files gives way to no other."""
    while True:
        path = folder / str(max((int(other.name) for other in _numbered(folder)), default=0) + 1)
        try:
            os.rename(temporary, path)
            return path
        except OSError:
            if not os.path.lexists(path):  # otherwise another process has taken the number
                raise


def _remove(version: pathlib.Path) -> None:
    """Remove a version, unless it holds anything that no export has written; log a warning if it stays."""
    try:
        if names := ownership.strangers(version, _written(version)):
            _logger.warning("%s is kept: no export has written %s.", version, ownership.listed(names))
            return
        hidden = temporary_path(version)
        os.rename(version, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    except FileNotFoundError:
        pass  # another process has removed it
    except OSError as error:
        _logger.warning("%s is kept: it cannot be removed: %s.", version, one_line(error))


def _cannot_write(path: pathlib.Path, error: Exception) -> UsageError:
    reason = getattr(error, "strerror", None) or one_line(error)
    return UsageError(f"{path} cannot be written: {reason}")
