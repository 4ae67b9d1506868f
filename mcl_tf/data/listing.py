"""Lists files: each one once, by its real path, without the housekeeping of operating systems."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import os
from collections.abc import Iterable

# Folders and files of file managers, NAS devices and editors; names that begin with a dot are left out, too.
_HOUSEKEEPING = frozenset(
    (
        *("@eadir", "@recycle", "@tmp", "#recycle", "#snapshot", "~snapshot", "@__thumb"),
        *("$recycle.bin", "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("__macosx", "icon\r", "network trash folder", "temporary items", "lost+found", "__pycache__"),
    )
)


@dataclasses.dataclass
class Listing:
    """What was found.

    Attributes:
      files: paths, sorted.
      failed: (path, reason) of the folders that could not be listed.
      repeated: number of files that are links to others.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    repeated: int = 0


def is_housekeeping(name: str) -> bool:
    """Return whether a file or folder of this name is left out."""
    return name.startswith(".") or name.lower() in _HOUSEKEEPING


def find_files(pattern) -> Listing:
    """List the files of a folder, at any depth, or those that match a glob, in which `**` stands for any depth.

    Links are followed. A file that several names lead to is listed once, if possible under the name that is no link.

    Args:
      pattern: the path of a folder, or a glob.
    """
    pattern = os.fspath(pattern)
    if os.path.isdir(pattern):
        return _walk(pattern, ("**",))
    if not glob.has_magic(pattern):
        return Listing([pattern] if os.path.lexists(pattern) else [])
    parts = pattern.split(os.sep)
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    base = os.sep.join(parts[:first]) or (os.sep if first else "")
    return _walk(base, tuple(part for part in parts[first:] if part))


def find_folders(path) -> list[str]:
    """Return the sorted names of the folders in a folder.

    Raises:
      OSError: the folder cannot be listed.
    """
    with os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not is_housekeeping(entry.name) and entry.is_dir())


def _walk(base: str, pattern: tuple[str, ...]) -> Listing:
    """List the files below a folder that match the parts of a glob."""
    found = Listing()
    if base and not os.path.isdir(base):
        return found
    seen: set = set()
    folders = [(base, os.path.realpath(base or os.curdir), frozenset([pattern]))]
    links: list[tuple[str, frozenset]] = []
    while folders or links:
        if folders:
            folder = folders.pop()
            if folder[1:] not in seen:  # a link may lead back to it
                seen.add(folder[1:])
                _list_folder(folder, found, seen, folders, links)
            continue
        # Links come last, so that a file keeps its own name.
        path, left = links.pop(0)
        if os.path.isdir(path):
            folders.append((path, os.path.realpath(path), left))
        elif _is_match(left):
            _add(found, seen, path, os.path.realpath(path))
    found.files.sort()
    return found


def _list_folder(folder, found: Listing, seen: set, folders: list, links: list) -> None:
    """Add the files of a folder (path, real path, patterns) to what was found, and its folders and links to do."""
    path, real, patterns = folder
    try:
        with os.scandir(path or os.curdir) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        found.failed.append((path, f"cannot be listed: {error.strerror or error}"))
        return
    for entry in entries:
        left, name = _advance(patterns, entry.name), os.path.join(path, entry.name)
        if left and entry.is_symlink():
            links.append((name, left))
        elif left and entry.is_dir(follow_symlinks=False):
            folders.append((name, os.path.join(real, entry.name), left))
        elif _is_match(left):
            _add(found, seen, name, os.path.join(real, entry.name))


def _add(found: Listing, seen: set, path: str, real: str) -> None:
    if real in seen:
        found.repeated += 1
    else:
        seen.add(real)
        found.files.append(path)


def _advance(patterns: Iterable[tuple[str, ...]], name: str) -> frozenset:
    """Return what is left of patterns behind a name; housekeeping matches only where a pattern names it."""
    left = set()
    for pattern in patterns:
        while pattern and pattern[0] == "**":
            if not is_housekeeping(name):
                left.add(pattern)
            pattern = pattern[1:]
        if pattern and fnmatch.fnmatchcase(name, pattern[0]):
            named = pattern[0].startswith(".") or not glob.has_magic(pattern[0])
            if named or not is_housekeeping(name):
                left.add(pattern[1:])
    return frozenset(left)


def _is_match(patterns: Iterable[tuple[str, ...]]) -> bool:
    """Return whether a file of which these patterns are left matches one of them."""
    return any(all(part == "**" for part in pattern) for pattern in patterns)
