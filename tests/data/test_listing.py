"""Listing of files: each one once, loops that end, housekeeping, folders that cannot be listed."""

import os

import pytest

from mcl_tf.data import listing


@pytest.fixture
def tree(tmp_path):
    """A folder with files at several depths, hidden files and housekeeping."""
    names = ["a.png", "b.txt", "x/c.png", "x/y/d.png", ".hidden/e.png", "x/._c.png"]
    names += ["@eaDir/a.png/thumb.png", "x/Thumbs.db", "__MACOSX/a.png", "#recycle/a.png", "lost+found/a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names_of(found, base):
    return [os.path.relpath(path, base) for path in found.files]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["a.png", "b.txt", "x/c.png", "x/y/d.png"]),
        ("**/*.png", ["a.png", "x/c.png", "x/y/d.png"]),
        ("*.png", ["a.png"]),
        ("*/*.png", ["x/c.png"]),
        ("x/**", ["x/c.png", "x/y/d.png"]),
        ("**/y/*", ["x/y/d.png"]),
        ("[ab].*", ["a.png", "b.txt"]),
        (".hidden/*.png", [".hidden/e.png"]),
        ("@eaDir/**/*.png", ["@eaDir/a.png/thumb.png"]),
        ("a.png", ["a.png"]),
        ("nowhere", []),
        ("nowhere/*", []),
    ],
)
def test_lists_the_files_of_a_folder_or_glob(pattern, expected, tree):
    found = listing.find_files(tree / pattern)
    assert names_of(found, tree) == expected
    assert (found.failed, found.repeated) == ([], 0)


def test_keeps_relative_names(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert listing.find_files("*.png").files == ["a.png"]
    assert listing.find_files("x").files == ["x/c.png", "x/y/d.png"]
    assert listing.find_files("./x/*.png").files == ["./x/c.png"]


def test_takes_the_name_of_a_folder_before_a_pattern(tmp_path):
    (tmp_path / "[x]").mkdir()
    (tmp_path / "[x]" / "a.png").write_bytes(b"")
    (tmp_path / "x").write_bytes(b"")
    assert names_of(listing.find_files(tmp_path / "[x]"), tmp_path) == ["[x]/a.png"]


@pytest.mark.parametrize("pattern", ["", "**/*", "**/*.png"])
def test_loops_end_and_files_count_once(pattern, tree):
    expected = listing.find_files(tree / pattern).files
    for name, target in (("A", "."), ("loop", "."), ("x/up", ".."), ("x/up2", ".."), ("x/y/self", ".")):
        (tree / name).symlink_to(target, target_is_directory=True)
    (tree / "0.png").symlink_to("x/c.png")  # sorted before the file itself
    found = listing.find_files(tree / pattern)
    assert found.files == expected
    assert found.repeated >= 1


def test_follows_links_out_of_the_folder_and_names_broken_ones(tree, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "z.png").write_bytes(b"")
    (tree / "linked").symlink_to(other)
    (tree / "gone.png").symlink_to("nothing")
    (tree / "own.png").symlink_to("own.png")
    names = names_of(listing.find_files(tree / "**/*.png"), tree)
    assert names == ["a.png", "gone.png", "linked/z.png", "own.png", "x/c.png", "x/y/d.png"]


def test_names_folders_that_cannot_be_listed(tree, monkeypatch):
    scandir = os.scandir

    def fail(path):
        if str(path).endswith("y"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    found = listing.find_files(tree)
    assert names_of(found, tree) == ["a.png", "b.txt", "x/c.png"]
    assert found.failed == [(str(tree / "x" / "y"), "cannot be listed: Permission denied")]


def test_finds_folders_without_housekeeping(tree):
    assert listing.find_folders(tree) == ["x"]
