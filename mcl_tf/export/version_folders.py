"""Version folders, saved_model/<n>, as TensorFlow Serving watches them: complete or absent.

The server only reads folders whose names are numbers. A folder that is being written or removed has a hidden name.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

from mcl_tf.errors import UsageError
from mcl_tf.utils.atomic import atomic_folder, sync, sync_tree, temporary_path


def versions(folder: pathlib.Path) -> list[int]:
    """Return the versions in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def find(path) -> pathlib.Path:
    """Return the SavedModel at a path, or the newest one if it is a folder of versions.

    Args:
      path: the folder.

    Raises:
      UsageError: there is no SavedModel.
    """
    path = pathlib.Path(path).expanduser()
    numbers = versions(path)
    model = path if (path / "saved_model.pb").is_file() else path / str(numbers[-1]) if numbers else None
    if model is None or not (model / "saved_model.pb").is_file():
        raise UsageError(f"A SavedModel is a folder with saved_model.pb, or one of its versions. Received: {path}")
    return model.resolve()


def replace(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Write a SavedModel atomically and replace an older one.

    Args:
      path: the folder.
      write: function that fills an empty folder.

    Returns:
      The path.

    Raises:
      UsageError: the path is a file or cannot be written.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"A SavedModel is a folder. Received: {path}, which is a file")
    _make_folder(path.parent)
    with atomic_folder(path) as folder:
        write(folder)
    return path


def add(folder: pathlib.Path, write: Callable[[pathlib.Path], None], keep: int = 0) -> pathlib.Path:
    """Write the next version atomically, then removes the oldest ones.

    Args:
      folder: the folder of versions.
      write: function that fills an empty folder.
      keep: the number of newest versions to keep; 0 keeps all.

    Returns:
      The path of the new version.

    Raises:
      UsageError: the folder is a file or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"Versions of a SavedModel lie in a folder. Received: {folder}, which is a file")
    _make_folder(folder)
    temporary = temporary_path(folder / "new")
    try:
        temporary.mkdir()
        write(temporary)
        sync_tree(temporary)
        path = _rename_to_next(temporary, folder)
        sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for number in versions(folder)[:-keep] if keep else ():
        hidden = temporary_path(folder / str(number))
        os.rename(folder / str(number), hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    return path


def _rename_to_next(temporary: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    while True:
        path = folder / str(max(versions(folder), default=0) + 1)
        try:
            os.rename(temporary, path)
            return path
        except OSError:
            if not path.exists():  # otherwise another process has taken the number
                raise


def _make_folder(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
