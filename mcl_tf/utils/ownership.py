"""What this library may replace or remove: folders that hold nothing but what it wrote there itself."""

from __future__ import annotations

import os
import pathlib

from mcl_tf.errors import UsageError, printable

Contents = dict[str, int | None]


def contents(folder: pathlib.Path) -> Contents:
    """Return {path within a folder: size of a file in bytes, None for a folder}; links are not followed.

    Raises:
      OSError: a folder cannot be listed.
    """
    found: Contents = {}
    for root, folders, files in os.walk(folder, onerror=_raise):
        for name in folders + files:
            path = pathlib.Path(root, name)
            is_folder = name in folders and not path.is_symlink()
            found[path.relative_to(folder).as_posix()] = None if is_folder else path.lstat().st_size
    return found


def strangers(folder: pathlib.Path, written: Contents | None) -> list[str]:
    """Return what lies in a folder and was not written by this library, or was changed since.

    Args:
      folder: the folder.
      written: the contents as they were written; None if this library has not written the folder.

    Returns:
      Paths within the folder, without those below another one of them.
    """
    if written is None:
        return sorted(os.listdir(folder))
    found = {name for name, size in contents(folder).items() if written.get(name, -1) != size}
    return sorted(name for name in found if os.path.dirname(name) not in found)


def check_replaceable(folder: pathlib.Path, written: Contents | None, what: str) -> None:
    """Check that a folder may be replaced as a whole: it does not exist, is empty, or is as it was written.

    Args:
      folder: its absolute path.
      written: see `strangers`.
      what: what is to be written, the beginning of the message.

    Raises:
      UsageError: it holds something else, is a mount point, or holds the working directory.
      OSError: it is not a folder, or cannot be listed.
    """
    if not os.path.lexists(folder):
        return
    if names := strangers(folder, written):
        raise UsageError(f"{what} needs a folder of its own. {folder} holds {listed(names)}")
    if os.path.ismount(folder):
        raise UsageError(f"{what} needs a folder that can be replaced. Received: {folder}, which is a mount point")
    if folder in (here := pathlib.Path(os.path.realpath(os.curdir)), *here.parents):
        raise UsageError(f"{what} needs a folder that can be replaced. Received: {folder}, the working directory")


def listed(names: list[str], most: int = 3) -> str:
    """Return names as one line; of many, the first ones and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def _raise(error: OSError):
    raise error
