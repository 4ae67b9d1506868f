"""Atomic writes: a failure or a kill at any operation leaves the complete old or the complete new contents."""

import contextlib
import itertools
import json
import os
import stat
import time

import pytest

from mcl_tf.utils import atomic
from tests.helpers import read_files, run_python

# Every operation of `os` that the module, pathlib and shutil call, read-only ones included.
OPERATIONS = ("open", "close", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir", "stat", "lstat")
OLD, NEW = {"a": b"old", "sub/b": b"old, too"}, {"a": b"new", "sub/c": b"new, too"}


def fill(folder, contents):
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def write_folder(target):
    with atomic.atomic_folder(target) as folder:
        fill(folder, NEW)


def write_file(target):
    with atomic.atomic_file(target, "wb") as file:
        file.write(NEW["a"])


@pytest.fixture(params=["exchange", "rename"])
def replace_method(request, monkeypatch):
    """Whether the system exchanges two names in one operation, or has to rename the old folder aside."""
    if request.param == "rename":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    return request.param


class Injection:
    """Lets one operation fail: the one with this number, counted from 0, before or after it is performed."""

    def __init__(self, number, moment, error):
        self.number, self.moment, self.error = number, moment, error
        self.calls = itertools.count()
        self.operation = None

    def wrap(self, name, function):
        def call(*args, **kwargs):
            fails = next(self.calls) == self.number
            if fails:
                self.operation = name
            if fails and self.moment == "before":
                raise self.error
            try:
                return function(*args, **kwargs)
            finally:
                if fails:
                    raise self.error

        return call

    @contextlib.contextmanager
    def active(self, monkeypatch):
        """Context manager with the failure; suppresses it and the errors that follow from it."""
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda handle: None)  # a disk may take long
            for name in OPERATIONS:
                patch.setattr(os, name, self.wrap(name, getattr(os, name)))
            patch.setattr(atomic, "_exchange", self.wrap("exchange", atomic._exchange))
            with contextlib.suppress(type(self.error), OSError):
                yield


# An error of the disk means that the operation was not performed; Ctrl-C may arrive on either side of it.
FAILURES = [
    ("before", OSError(28, "No space left on device")),
    ("before", KeyboardInterrupt()),
    ("after", KeyboardInterrupt()),
]


@pytest.mark.parametrize(("moment", "error"), FAILURES, ids=["disk error", "interrupt before", "interrupt after"])
def test_folder_is_complete_after_a_failure_at_any_operation(moment, error, replace_method, monkeypatch, tmp_path):
    operations = []
    for number in itertools.count():
        parent = tmp_path / str(number)
        fill(parent / "target", OLD)
        injection, finished = Injection(number, moment, error), False
        with injection.active(monkeypatch):
            write_folder(parent / "target")
            finished = True
        if injection.operation is None:
            break
        operations.append(injection.operation)
        found = read_files(parent / "target")
        assert found in ([NEW] if finished else [OLD, NEW]), (number, injection.operation)
    assert finished
    assert {"mkdir", "fsync", "open", "close", "rename" if replace_method == "rename" else "exchange"} <= {*operations}
    assert read_files(parent / "target") == NEW
    assert [path.name for path in parent.iterdir()] == ["target"]  # no temporary folder is left over


@pytest.mark.parametrize(("moment", "error"), FAILURES, ids=["disk error", "interrupt before", "interrupt after"])
@pytest.mark.parametrize("old", [b"old", None])
def test_file_is_complete_after_a_failure_at_any_operation(old, moment, error, monkeypatch, tmp_path):
    operations = []
    for number in itertools.count():
        parent = tmp_path / str(number)
        parent.mkdir()
        target = parent / "target"
        if old is not None:
            target.write_bytes(old)
        injection, finished = Injection(number, moment, error), False
        with injection.active(monkeypatch):
            write_file(target)
            finished = True
        if injection.operation is None:
            break
        operations.append(injection.operation)
        found = target.read_bytes() if target.exists() else None
        assert found in ([NEW["a"]] if finished else [old, NEW["a"]]), (number, injection.operation)
    assert finished
    assert {"fsync", "replace", "open", "close"} <= {*operations}
    assert target.read_bytes() == NEW["a"]
    assert [path.name for path in parent.iterdir()] == ["target"]


# Ends a child process before or after every operation in turn and prints what it leaves behind.
KILLS = """
import itertools, json, os, pathlib, sys
from mcl_tf.utils import atomic

kind, moment, exchange, root = sys.argv[1:]
OPERATIONS, OLD, NEW = json.loads(os.environ["ATOMIC"])

def fill(folder, contents):
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

def read(path):
    if path.is_file():
        return path.read_text()
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}

def child(target, number):
    calls = itertools.count()
    def wrap(function):
        def call(*args, **kwargs):
            last = next(calls) == number
            if last and moment == "before":
                os._exit(9)
            try:
                return function(*args, **kwargs)
            finally:
                if last:
                    os._exit(9)
        return call
    for name in OPERATIONS:
        setattr(os, name, wrap(getattr(os, name)))
    atomic._exchange = wrap(atomic._exchange if exchange == "True" else lambda *_: False)
    if kind == "file":
        with atomic.atomic_file(target) as file:
            file.write(NEW["a"])
    else:
        with atomic.atomic_folder(target) as folder:
            fill(folder, NEW)
    os._exit(0)

found, code = [], 9
for number in itertools.count():
    parent = pathlib.Path(root, str(number))
    target = parent / "target"
    fill(parent, {"target": OLD["a"]}) if kind == "file" else fill(target, OLD)
    process = os.fork()
    if not process:
        child(target, number)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    beside = [read(path) for path in parent.glob(".target.*.tmp")]
    whole = read(atomic.recovered(target)) if kind == "folder" else None
    found.append((read(target) if target.exists() else None, beside, whole))
    if code == 0:
        break
    assert code == 9, code
pathlib.Path(root, "found.json").write_text(json.dumps(found))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("kind", "exchange"), [("file", True), ("folder", True), ("folder", False)])
def test_contents_are_complete_after_the_end_of_the_process_at_any_operation(
    kind, exchange, moment, tmp_path, monkeypatch
):
    old, new = ({name: data.decode() for name, data in contents.items()} for contents in (OLD, NEW))
    monkeypatch.setenv("ATOMIC", json.dumps((OPERATIONS, old, new)))
    run_python(KILLS, kind, moment, exchange, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    if kind == "file":
        old, new = old["a"], new["a"]
    assert len(found) > 5
    missing = [beside for target, beside, _ in found if target is None]
    assert all(target in (None, old, new) for target, *_ in found)
    assert found[-1][:2] == [new, []]
    if kind == "folder":  # one is whole and found, whatever happens
        assert all(whole == (old if target is None else target) for target, _, whole in found)
    if exchange:
        assert not missing
    else:
        # Between its two renamings the old folder has a temporary name, and the new one, too.
        assert missing
        assert all(sorted(beside, key=str) == sorted([old, new], key=str) for beside in missing)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_error_of_the_caller_leaves_the_old_contents(kind, tmp_path):
    target, write = tmp_path / "target", atomic.atomic_file if kind == "file" else atomic.atomic_folder
    target.write_bytes(b"old") if kind == "file" else fill(target, OLD)

    def fail(destination):
        if kind == "file":
            destination.write("half of the new")
        else:
            fill(destination, {"a": b"half of the new"})
        raise ValueError("a failing writer")

    with pytest.raises(ValueError, match="a failing writer"), write(target) as destination:
        fail(destination)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert target.read_bytes() == b"old" if kind == "file" else read_files(target) == OLD


def test_folder_is_created_if_there_is_none(tmp_path, replace_method):
    write_folder(tmp_path / "target")
    assert read_files(tmp_path / "target") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_missing_parent_is_an_error(write, tmp_path):
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "missing" / "target")
    assert not any(tmp_path.iterdir())


def test_text_files_take_the_arguments_of_open(tmp_path):
    with atomic.atomic_file(tmp_path / "target", newline="", encoding="latin-1") as file:
        file.write("ü\r\n")
    assert (tmp_path / "target").read_bytes() == b"\xfc\r\n"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("exists", [False, True])
def test_permissions_follow_the_umask(umask, exists, replace_method, tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    if exists:
        fill(folder, OLD)
        file.touch()
    before = os.umask(umask)
    try:
        write_folder(folder)
        write_file(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask
    assert {stat.S_IMODE(path.stat().st_mode) for path in (file, folder / "a")} == {0o666 & ~umask}


def test_temporary_names_are_hidden_and_differ(tmp_path):
    first, second = (atomic.temporary_path(tmp_path / "target") for _ in range(2))
    assert first != second
    assert first.parent == tmp_path
    assert first.name.startswith(".target.")


def test_leftovers_of_one_name_are_removed(tmp_path):
    for name in ("step-1", "step-2", "other"):
        fill(atomic.temporary_path(tmp_path / name), NEW)
    fill(tmp_path / "step-1", NEW)
    atomic.remove_temporary(tmp_path, "step-*")
    assert sorted(path.name.split(".")[1] for path in tmp_path.glob(".*")) == ["other"]
    assert read_files(tmp_path / "step-1") == NEW


# What interrupted writes leave behind.


def leave(folder, name, age=0.0):
    """Create a folder as a writer that was killed some seconds ago has left it."""
    path = folder / name
    fill(path, NEW)
    past = time.time() - age
    os.utime(path, (past, past))
    return path


@pytest.mark.parametrize(
    ("name", "age", "removed"),
    [
        (".target.0123456789ab.mcl_tf.tmp", 100.0, True),
        (".target.0123456789ab.mcl_tf.tmp", 10.0, False),
        (".target.0123456789ab.tmp", 100.0, False),  # not our mark
        (".target.mcl_tf.tmp", 100.0, False),
        (".other.0123456789ab.mcl_tf.tmp", 100.0, False),
        (".target.0123456789ab.old.mcl_tf.tmp", 100.0, False),  # the only whole one
    ],
)
def test_only_abandoned_folders_of_our_own_are_removed(name, age, removed, tmp_path):
    path = leave(tmp_path, name, age)
    atomic.remove_temporary(tmp_path, "target", 60.0)
    assert path.exists() != removed


def test_an_old_folder_is_removed_once_the_new_one_is_in_place(tmp_path):
    path = leave(tmp_path, ".target.0123456789ab.old.mcl_tf.tmp", 100.0)
    assert atomic.recovered(tmp_path / "target") == path
    write_folder(tmp_path / "target")
    assert atomic.recovered(tmp_path / "target") == tmp_path / "target"
    atomic.remove_temporary(tmp_path, "target", 60.0)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_the_folder_of_a_live_writer_is_kept(tmp_path):
    with atomic.atomic_folder(tmp_path / "target") as folder:
        fill(folder, NEW)
        atomic.remove_temporary(tmp_path)
        assert read_files(folder) == NEW
    assert read_files(tmp_path / "target") == NEW


def test_a_link_with_the_name_of_a_temporary_folder_is_kept(tmp_path):
    fill(tmp_path / "elsewhere", OLD)
    (tmp_path / ".target.0123456789ab.mcl_tf.tmp").symlink_to("elsewhere")
    atomic.remove_temporary(tmp_path)
    assert read_files(tmp_path / "elsewhere") == OLD


@pytest.mark.parametrize("below", ["", "not/there/yet"])
def test_trying_a_folder_leaves_nothing(below, tmp_path):
    atomic.try_folder(tmp_path / below)
    assert not any(tmp_path.iterdir())


def test_trying_a_folder_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        atomic.try_folder(tmp_path / "file" / "folder")
