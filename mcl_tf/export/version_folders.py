"""Version folders, saved_model/<n>, as TF Serving watches them: complete or not there.

What is written or removed has a name that begins with a dot until, or as soon as, it is no version; the server
looks at names that are numbers and at nothing else.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

from mcl_tf.errors import UsageError


def versions(folder: pathlib.Path) -> list[int]:
    """The versions in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def find(path) -> pathlib.Path:
    """The SavedModel at a path, or the newest one if it is a folder of versions.

    Raises:
      UsageError: there is none.
    """
    path = pathlib.Path(path)
    numbers = versions(path)
    found = path if (path / "saved_model.pb").is_file() else path / str(numbers[-1]) if numbers else None
    if found is None or not (found / "saved_model.pb").is_file():
        raise UsageError(f"A SavedModel is a folder with saved_model.pb, or one of its versions. Received: {path}")
    return found.resolve()


def replace(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """Writes a folder, complete or not at all, and replaces what is there.

    Args:
      path: the folder.
      write: makes and fills the folder that it is given, whose name is another one until it is complete.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"A SavedModel is a folder. Received: {path}, which is a file")
    replaced = _hidden(path, ".old")
    temporary = _hidden(path)
    try:
        _write(temporary, write)
        if path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return path


def add(folder: pathlib.Path, write: Callable[[pathlib.Path], None], keep: int = 0) -> pathlib.Path:
    """Writes the next version into a folder, then removes the oldest beyond the `keep` newest (0 keeps all)."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"Versions of a SavedModel lie in a folder. Received: {folder}, which is a file")
    temporary = _hidden(folder / "new")
    try:
        _write(temporary, write)
        while True:
            path = folder / str(max(versions(folder), default=0) + 1)
            try:
                os.rename(temporary, path)
                break
            except OSError:
                if not path.exists():  # otherwise another process took the number
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if keep:
        for number in versions(folder)[:-keep]:
            removed = _hidden(folder / str(number), ".old")
            os.rename(folder / str(number), removed)
            shutil.rmtree(removed, ignore_errors=True)
    return path


def _write(temporary, write):
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{temporary.parent} cannot be written: {error.strerror}") from None
    write(temporary)


def _hidden(path, ending=""):
    return path.with_name(f".{path.name}.{os.getpid()}{ending}")
