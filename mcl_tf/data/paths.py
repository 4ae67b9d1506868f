"""Names of datasets that mean folders, and states of files. Nothing here imports TensorFlow, which takes seconds."""

from __future__ import annotations

import os


def is_folder(name: str) -> bool:
    """Return whether the name of a dataset means a folder; a bare name could also be one of TensorFlow Datasets."""
    return looks_like_path(name) or is_table(name) or (os.sep in name and os.path.isdir(name))


def is_table(name: str) -> bool:
    """Return whether a name means a table of images."""
    return name.lower().endswith(".csv")


def looks_like_path(name: str) -> bool:
    """Return whether a name can only be a path."""
    return name.startswith((".", "~", os.sep))


def file_state(name) -> str:
    """Return what tells a file from a later one of its name: its size and when it was modified; "" if it is absent."""
    try:
        status = os.stat(name)
    except OSError:
        return ""
    return f"{status.st_size} bytes of {status.st_mtime_ns}"


def folder_name(name: str) -> str:
    """Return the last part of a folder's path, for file names."""
    name = os.path.basename(os.path.realpath(os.path.expanduser(name))) or "folder"
    return os.path.splitext(name)[0] if is_table(name) else name
