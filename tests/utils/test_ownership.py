"""What may be replaced; tests/export/test_version_folders.py has the cases of whole models."""

import os

import pytest

from mcl_tf.errors import UsageError
from mcl_tf.utils import ownership


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, a folder with a file, and a link to a folder with a file."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c").write_text("not in the folder")
    path = tmp_path / "folder"
    (path / "sub").mkdir(parents=True)
    (path / "a").write_text("12345")
    (path / "sub" / "b").write_text("")
    (path / "link").symlink_to("../elsewhere")
    return path


def test_contents_do_not_follow_links(folder):
    found = ownership.contents(folder)
    assert found == {"a": 5, "sub": None, "sub/b": 0, "link": len("../elsewhere")}


def test_strangers_are_new_and_changed_names(folder):
    written = ownership.contents(folder)
    assert ownership.strangers(folder, written) == []
    assert ownership.strangers(folder, {**written, "gone": 3}) == []
    assert ownership.strangers(folder, {**written, "a": 4}) == ["a"]
    (folder / "sub" / "new" / "below").mkdir(parents=True)
    assert ownership.strangers(folder, written) == ["sub/new"]
    assert ownership.strangers(folder, None) == ["a", "link", "sub"]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty"])
def test_what_holds_nothing_may_be_replaced(make, tmp_path):
    make(tmp_path / "folder")
    ownership.check_replaceable(tmp_path / "folder", None, "It")


def test_a_file_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        ownership.check_replaceable(tmp_path / "file", None, "It")


def test_a_name_that_is_not_utf8_is_printed(tmp_path):
    (tmp_path / os.fsdecode(b"\xff\n")).touch()
    with pytest.raises(UsageError, match="It needs a folder of its own. .* holds ") as error:
        ownership.check_replaceable(tmp_path, None, "It")
    assert "\n" not in str(error.value).encode().decode()


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["a"], "a"), (["a", "b", "c"], "a, b, c"), (["a", "b", "c", "d", "e"], "a, b, c and 2 more")],
)
def test_lists_of_names(names, expected):
    assert ownership.listed(names) == expected
