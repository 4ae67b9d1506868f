"""Version folders: numbers, and old versions that survive any failure, without visible leftovers."""

import itertools
import os
import shutil
import threading
import time

import pytest

from mcl_tf.errors import UsageError
from mcl_tf.export import version_folders
from mcl_tf.utils import atomic
from tests.helpers import Killed, fail_at, read_files, visible_names

FAILURES = [OSError("No space left on device"), Killed(), KeyboardInterrupt()]
FAILURE_NAMES = ["error", "kill", "interrupt"]
FOREIGN = {"notes.txt": b"mine", "0/photo.jpg": b"mine, too", "model.txt/a/b": b"and this", "007": b"not a folder"}


def make_writer(text):
    """Return a function that fills a folder like a small SavedModel."""

    def write(folder):
        assert folder.name.startswith("."), "a server would load it half-written"
        assert os.listdir(folder) == []
        (folder / "variables").mkdir()
        (folder / "variables" / "data").write_text(text)
        (folder / "saved_model.pb").write_text(text)

    return write


def put(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_models(folder):
    """Return {name: text} of the visible models in a folder, and check that they are complete."""
    models = {}
    for name in visible_names(folder):
        if name in {foreign.split("/")[0] for foreign in FOREIGN}:
            continue
        files = read_files(folder / name)
        assert set(files) == {"saved_model.pb", "variables/data", version_folders.MARK}, f"{name} is incomplete"
        del files[version_folders.MARK]
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
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a disk may take long
    for step in itertools.count():
        folder = tmp_path / f"{step}"
        put(folder, FOREIGN)
        prepare(folder)
        with fail_at(monkeypatch, step, error, exchange) as fault:
            change(folder)
        models = read_models(folder)
        assert {name: data for name, data in read_files(folder).items() if name in FOREIGN} == FOREIGN
        if not fault.raised:  # the change does without the step
            complete.append(models)
        elif models not in states[-1:]:
            states.append(models)
        if not fault.reached:
            assert step > 5
            assert all(found.items() >= models.items() for found in complete)  # an old version may be left
            assert visible_names(folder) == sorted(os.listdir(folder))
            return states if states[-1] == models else [*states, models]


@pytest.mark.parametrize("error", FAILURES, ids=FAILURE_NAMES)
def test_add_keeps_old_versions_whatever_step_fails(error, tmp_path, monkeypatch):
    def prepare(folder):
        for text in ("a", "b", "c"):
            version_folders.add(folder, make_writer(text))

    states = fail_everywhere(
        tmp_path, monkeypatch, error, prepare, lambda folder: version_folders.add(folder, make_writer("d"), keep=2)
    )
    before, after = {"8": "a", "9": "b", "10": "c"}, {"8": "a", "9": "b", "10": "c", "11": "d"}
    # The new version is complete before an old one goes. An error only keeps an old one.
    removed = [] if isinstance(error, OSError) else [{"9": "b", "10": "c", "11": "d"}]
    assert states == [before, after, *removed, {"10": "c", "11": "d"}]


@pytest.mark.parametrize("error", FAILURES, ids=FAILURE_NAMES)
def test_add_creates_the_first_version_completely_or_not_at_all(error, tmp_path, monkeypatch):
    states = fail_everywhere(
        tmp_path,
        monkeypatch,
        error,
        lambda folder: None,
        lambda folder: version_folders.add(folder, make_writer("a")),
    )
    assert states == [{}, {"8": "a"}]  # above 007


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


@pytest.mark.parametrize("error", FAILURES, ids=FAILURE_NAMES)
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
    with pytest.raises(UsageError, match="cannot be written: No space left on device$"):
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


# What an export has not written.


def make_model(path):
    """Write a model as an export does."""
    return version_folders.replace(path, make_writer("old"))


STRANGERS = {
    "documents": lambda path: put(path, {"letter.txt": b"mine"}),
    "a hidden file": lambda path: put(path, {".hidden": b"mine"}),
    "versions": lambda path: version_folders.add(path, make_writer("old")),
    "another program's model": lambda path: put(path, {"saved_model.pb": b"graph", "variables/data": b"mine"}),
    "another mark": lambda path: put(path, {version_folders.MARK: b"{}", "saved_model.pb": b"graph"}),
    "a note in a model": lambda path: put(make_model(path), {"variables/note.txt": b"mine"}),
    "a changed file": lambda path: put(make_model(path), {"saved_model.pb": b"other graph"}),
    "a link in a model": lambda path: (make_model(path) / "link").symlink_to("variables"),
    "a folder in a model": lambda path: (make_model(path) / "mine").mkdir(),
    "a link for a file": lambda path: link_file(make_model(path) / "variables" / "data"),
}


def link_file(path):
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to("../../elsewhere")


@pytest.mark.parametrize("kind", STRANGERS)
def test_replaces_nothing_that_no_export_has_written(kind, tmp_path):
    path = tmp_path / "model"
    STRANGERS[kind](path)
    before = read_files(tmp_path), sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="A SavedModel needs a folder of its own. .*model holds ") as error:
        version_folders.replace(path, make_writer("new"))
    assert "\n" not in str(error.value)
    assert (read_files(tmp_path), sorted(tmp_path.rglob("*"))) == before


def test_names_what_lies_in_a_folder(tmp_path):
    put(tmp_path, {f"{name}.txt": b"mine" for name in "dbaec"})
    with pytest.raises(UsageError, match=f"{tmp_path} holds a.txt, b.txt, c.txt and 2 more$"):
        version_folders.replace(tmp_path, make_writer("new"))


def test_replaces_an_empty_folder(tmp_path):
    (tmp_path / "model").mkdir()
    version_folders.replace(tmp_path / "model", make_writer("new"))
    assert read_models(tmp_path) == {"model": "new"}


def test_keeps_what_is_put_into_a_folder_during_an_export(tmp_path):
    def write(folder):
        make_writer("new")(folder)
        put(path, {"letter.txt": b"mine"})

    path = make_model(tmp_path / "model")
    with pytest.raises(UsageError, match="model holds letter.txt$"):
        version_folders.replace(path, write)
    assert (path / "letter.txt").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["model"]


def test_refuses_a_mount_point(tmp_path, monkeypatch):
    path = make_model(tmp_path / "model")
    monkeypatch.setattr(os.path, "ismount", lambda other: other == path)
    with pytest.raises(UsageError, match=r"Received: .*model, which is a mount point$"):
        version_folders.replace(path, make_writer("new"))
    assert read_models(tmp_path) == {"model": "old"}


@pytest.mark.parametrize("below", ["", "variables"])
def test_refuses_the_working_directory(below, tmp_path, monkeypatch):
    monkeypatch.chdir(make_model(tmp_path / "model") / below)
    with pytest.raises(UsageError, match=r"Received: .*model, the working directory$"):
        version_folders.replace(tmp_path / "model", make_writer("new"))
    assert read_models(tmp_path) == {"model": "old"}


def test_never_removes_or_counts_the_folders_of_others(tmp_path):
    elsewhere = make_model(tmp_path / "elsewhere" / "model")
    folder = tmp_path / "photos"
    put(folder, {f"{year}/{year}.jpg": b"mine" for year in (2021, 2022, 2024)})
    (folder / "2023").mkdir()
    (folder / "2020").symlink_to(elsewhere)
    before = read_files(folder)
    for number in range(2025, 2030):
        assert version_folders.add(folder, make_writer("model"), keep=2) == folder / str(number)
    found = {"2020", "2021", "2022", "2023", "2024", "2028", "2029"}
    assert set(os.listdir(folder)) == found
    assert {name: data for name, data in read_files(folder).items() if name in before} == before
    assert read_models(elsewhere.parent) == {"model": "old"}


@pytest.mark.parametrize("kind", ["file", "folder", "link", "broken link"])
@pytest.mark.parametrize(("name", "expected"), [("11", "12"), ("0011", "12"), ("11.5", "2"), ("\u0663", "2")])
def test_the_next_number_is_above_all_names_that_are_numbers(kind, name, expected, tmp_path):
    version_folders.add(tmp_path, make_writer("model"))
    if kind == "folder":
        (tmp_path / name).mkdir()
    elif kind == "file":
        (tmp_path / name).touch()
    else:
        (tmp_path / name).symlink_to("1" if kind == "link" else "nowhere")
    assert version_folders.add(tmp_path, make_writer("model")).name == expected


def test_keeps_an_old_version_with_a_file_of_the_user(tmp_path, library_log):
    for _ in range(3):
        path = version_folders.add(tmp_path, make_writer("model"))
    put(tmp_path, {"1/note.txt": b"mine"})
    version_folders.add(tmp_path, make_writer("model"), keep=2)
    assert version_folders.versions(tmp_path) == [1, 3, 4]
    assert (tmp_path / "1" / "note.txt").read_bytes() == b"mine"
    assert library_log.messages == [f"{tmp_path / '1'} is kept: no export has written note.txt."]
    assert path.name == "3"


def test_finds_the_newest_folder_with_a_model(tmp_path):
    path = version_folders.add(tmp_path, make_writer("model"))
    put(tmp_path, {"2024/photo.jpg": b"mine"})
    assert version_folders.find(tmp_path) == path


def test_a_version_that_is_a_link_keeps_its_place(tmp_path):
    """The next version lies beside the link, not beside what it leads to."""
    model = make_model(tmp_path / "elsewhere" / "model")
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "4").symlink_to(model)
    assert version_folders.find(tmp_path / "versions") == tmp_path / "versions" / "4"


# Several writers, and what dead ones leave behind.


def test_versions_of_threads_are_all_there_and_complete(tmp_path):
    barrier = threading.Barrier(8)

    def write(text):
        def fill(folder):
            barrier.wait(timeout=60)
            make_writer(text)(folder)

        return fill

    texts = [f"model {index}" for index in range(8)]
    threads = [threading.Thread(target=version_folders.add, args=(tmp_path, write(text))) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    models = read_models(tmp_path)
    assert sorted(models) == sorted(map(str, range(1, 9)))
    assert sorted(models.values()) == texts


def test_two_removals_of_one_version_are_no_failure(tmp_path, monkeypatch):
    for _ in range(2):
        version_folders.add(tmp_path, make_writer("model"))
    strangers = version_folders.ownership.strangers

    def remove_first(folder, written):
        found = strangers(folder, written)
        shutil.rmtree(folder)
        return found

    monkeypatch.setattr(version_folders.ownership, "strangers", remove_first)
    assert version_folders.add(tmp_path, make_writer("model"), keep=2) == tmp_path / "3"


def make_old(path):
    """Let a folder be one that nobody has changed for two hours."""
    past = time.time() - 7200
    os.utime(path, (past, past))


@pytest.mark.parametrize("update", ["add", "replace"])
def test_a_later_export_removes_what_a_killed_one_has_left(update, tmp_path):
    path = tmp_path if update == "add" else tmp_path / "1"
    child = os.fork()
    if child == 0:
        try:
            getattr(version_folders, update)(path, lambda folder: os._exit(9))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (leftover,) = tmp_path.iterdir()
    make_old(leftover)
    getattr(version_folders, update)(path, make_writer("new"))
    assert os.listdir(tmp_path) == ["1"]


@pytest.mark.parametrize("update", ["add", "replace"])
def test_an_export_leaves_the_folders_of_live_writers(update, tmp_path):
    """Even if they have not changed for long, and the hidden folders of other programs."""
    path = tmp_path if update == "add" else tmp_path / "1"
    others = {".1.tmp/a": b"mine", ".new.0123456789ab.tmp/a": b"mine", ".1.x.mcl_tf.tmp/a": b"mine"}
    put(tmp_path, others)
    for name in others:
        make_old(tmp_path / name.split("/")[0])

    def write(folder):
        make_writer("slow")(folder)
        make_old(folder)
        version_folders.add(tmp_path, make_writer("quick"))
        assert (folder / "saved_model.pb").read_text() == "slow"

    getattr(version_folders, update)(path, write)
    assert {name: data for name, data in read_files(tmp_path).items() if name in others} == others
