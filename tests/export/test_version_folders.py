"""Version folders: numbers, and old versions that survive any failure, without visible leftovers."""

import itertools
import os
import shutil

import pytest

from mcl_tf.errors import UsageError
from mcl_tf.export import version_folders
from mcl_tf.utils import atomic
from tests.helpers import Killed, fail_at, read_files, visible_names

FAILURES = [OSError("No space left on device"), Killed()]


def make_writer(text):
    """Return a function that fills a folder like a small SavedModel."""

    def write(folder):
        assert folder.name.startswith("."), "a server would load it half-written"
        assert os.listdir(folder) == []
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text(text)
        (folder / "saved_model.pb").write_text(text)

    return write


def read_models(folder):
    """Return {name: text} of the visible models in a folder, and check that they are complete."""
    models = {}
    for name in visible_names(folder):
        files = read_files(folder / name)
        assert set(files) == {"saved_model.pb", "variables/data"}, f"{name} is incomplete"
        (text,) = set(files.values())
        models[name] = text.decode()
    return models


def fail_everywhere(tmp_path, monkeypatch, error, prepare, change, exchange=True):
    """Repeat a change and let every one of its steps fail, one after the other.

    Args:
      tmp_path: pytest's fixture.
      monkeypatch: pytest's fixture.
      error: the failure, see `fail_at`.
      prepare: function that fills a folder.
      change: function that changes the folder.
      exchange: see `fail_at`.

    Returns:
      The visible models after the error of every step, without repetitions, and at the end those without an error.
    """
    states, complete = [], []
    for step in itertools.count():
        folder = tmp_path / f"{step}"
        folder.mkdir()
        prepare(folder)
        with fail_at(monkeypatch, step, error, exchange) as fault:
            change(folder)
        models = read_models(folder)
        if not fault.raised:  # the change does without the step
            complete.append(models)
        elif models not in states[-1:]:
            states.append(models)
        if not fault.reached:
            assert step > 5
            assert complete == [models] * len(complete)
            assert visible_names(folder) == sorted(os.listdir(folder))
            return states if states[-1] == models else [*states, models]


@pytest.mark.parametrize("error", FAILURES, ids=["error", "kill"])
def test_add_keeps_old_versions_whatever_step_fails(error, tmp_path, monkeypatch):
    def prepare(folder):
        for text in ("a", "b", "c"):
            version_folders.add(folder, make_writer(text))

    states = fail_everywhere(
        tmp_path, monkeypatch, error, prepare, lambda folder: version_folders.add(folder, make_writer("d"), keep=2)
    )
    assert states == [
        {"1": "a", "2": "b", "3": "c"},
        {"1": "a", "2": "b", "3": "c", "4": "d"},  # the new version is complete before an old one goes
        {"2": "b", "3": "c", "4": "d"},
        {"3": "c", "4": "d"},
    ]


@pytest.mark.parametrize("error", FAILURES, ids=["error", "kill"])
def test_add_creates_the_first_version_completely_or_not_at_all(error, tmp_path, monkeypatch):
    states = fail_everywhere(
        tmp_path,
        monkeypatch,
        error,
        lambda folder: None,
        lambda folder: version_folders.add(folder, make_writer("a")),
    )
    assert states == [{}, {"1": "a"}]


def can_exchange(folder):
    """Return whether the file system exchanges two names in one operation."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / name).touch()
    inode = (folder / "a").stat().st_ino
    atomic.replace_folder(folder / "a", folder / "b")
    exchanged = (folder / "b").stat().st_ino == inode and (folder / "a").exists()
    for name in ("a", "b"):
        shutil.rmtree(folder / name)
    return exchanged


@pytest.mark.parametrize("error", FAILURES, ids=["error", "kill"])
def test_replace_leaves_the_old_or_the_new_model_whatever_step_fails(error, tmp_path, monkeypatch):
    if not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange two names")
    states = fail_everywhere(
        tmp_path,
        monkeypatch,
        error,
        lambda folder: version_folders.replace(folder / "model", make_writer("old")),
        lambda folder: version_folders.replace(folder / "model", make_writer("new")),
    )
    assert states == [{"model": "old"}, {"model": "new"}]


def test_replace_without_exchange_leaves_the_old_or_the_new_model_after_an_error(tmp_path, monkeypatch):
    states = fail_everywhere(
        tmp_path,
        monkeypatch,
        OSError("No space left on device"),
        lambda folder: version_folders.replace(folder / "model", make_writer("old")),
        lambda folder: version_folders.replace(folder / "model", make_writer("new")),
        exchange=False,
    )
    assert states == [{"model": "old"}, {"model": "new"}]


@pytest.mark.parametrize("update", [version_folders.add, version_folders.replace])
def test_leaves_nothing_of_a_writer_that_fails(update, tmp_path):
    version_folders.add(tmp_path, make_writer("old"))

    def fail(folder):
        (folder / "saved_model.pb").write_text("half")
        raise OSError("No space left on device")

    path = tmp_path if update is version_folders.add else tmp_path / "1"
    with pytest.raises(OSError, match="No space"):
        update(path, fail)
    assert os.listdir(tmp_path) == ["1"]
    assert read_models(tmp_path) == {"1": "old"}


def test_keeps_the_newest_versions(tmp_path):
    for number in range(1, 12):
        path = version_folders.add(tmp_path, make_writer(str(number)), keep=3)
        assert path == tmp_path / str(number)
    assert sorted(os.listdir(tmp_path)) == ["10", "11", "9"]  # by number, not by name
    assert version_folders.find(tmp_path).name == "11"


def test_keeps_all_versions_by_default(tmp_path):
    for _ in range(3):
        version_folders.add(tmp_path, make_writer("model"))
    assert version_folders.versions(tmp_path) == [1, 2, 3]


def test_takes_the_next_number_if_another_process_has_taken_one(tmp_path, monkeypatch):
    rename = os.rename

    def rename_late(source, target):
        if os.path.basename(target) == "1":
            monkeypatch.setattr(os, "rename", rename)
            version_folders.add(tmp_path, make_writer("other"))
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_late)
    assert version_folders.add(tmp_path, make_writer("mine")) == tmp_path / "2"
    assert read_models(tmp_path) == {"1": "other", "2": "mine"}


def test_lists_numbered_folders_only(tmp_path):
    for name in ("10", "9", "model", ".new.tmp", "-1", "1.5"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").touch()
    assert version_folders.versions(tmp_path) == [9, 10]
    assert version_folders.versions(tmp_path / "nowhere") == []


def test_finds_a_model_or_the_newest_version(tmp_path):
    for text in ("a", "b"):
        path = version_folders.add(tmp_path, make_writer(text))
    assert version_folders.find(tmp_path) == version_folders.find(path) == path.resolve()


@pytest.mark.parametrize("kind", ["nowhere", "empty", "file", "version without a model"])
def test_refuses_a_path_without_a_model(kind, tmp_path):
    path = tmp_path / "path"
    if kind == "file":
        path.touch()
    elif kind != "nowhere":
        (path / "1" if kind == "version without a model" else path).mkdir(parents=True)
    with pytest.raises(UsageError, match=f"folder with saved_model.pb.*Received: {path}$"):
        version_folders.find(path)


@pytest.mark.parametrize("update", [version_folders.add, version_folders.replace])
def test_creates_missing_folders(update, tmp_path):
    path = tmp_path / "not" / "there" / "yet"
    assert update(path, make_writer("model")) == (path / "1" if update is version_folders.add else path)


@pytest.mark.parametrize("update", [version_folders.add, version_folders.replace])
def test_refuses_a_file(update, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="Received: .*, which is a file|cannot be written: ") as error:
            update(path, make_writer("model"))
        assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "mine"
