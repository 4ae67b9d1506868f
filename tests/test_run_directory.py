"""What a run would overwrite, and what it could not write."""

import importlib.util

import pytest

from mcl_tf import run_directory
from mcl_tf.errors import UsageError

FILES = ["metrics.json", "scores.csv", "report.png", "report.html"]
FOLDERS = ["detector", "saved_model", "checkpoints", "checkpoints-restart", "train", "evaluation", "result"]


@pytest.mark.parametrize("name", FILES + FOLDERS)
@pytest.mark.parametrize("kind", ["file", "folder", "broken link"])
def test_a_directory_without_a_run_keeps_what_it_has(name, kind, tmp_path):
    (tmp_path / "notes.txt").touch()  # which no run writes
    run_directory.refuse_foreign(tmp_path)
    path = tmp_path / name
    path.touch() if kind == "file" else path.mkdir() if kind == "folder" else path.symlink_to("nowhere")
    with pytest.raises(UsageError, match=f"{tmp_path} holds no run, .* Received: {name}$"):
        run_directory.refuse_foreign(tmp_path)


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_the_wrong_kind_of_target_is_refused(name, tmp_path):
    run_directory.try_targets(tmp_path)
    path = tmp_path / name
    path.mkdir() if name in FILES else path.touch()
    with pytest.raises(UsageError, match=str(path)) as error:
        run_directory.try_targets(tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_the_results_of_an_earlier_start_are_no_obstacle(name, tmp_path):
    path = tmp_path / name
    path.touch() if name in FILES else path.mkdir()
    run_directory.try_targets(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", *FOLDERS])
def test_a_folder_that_takes_nothing_is_refused(name, tmp_path, monkeypatch):
    """As root, permissions forbid nothing."""
    (tmp_path / name).mkdir(exist_ok=True)
    target = tmp_path if name == "detector" else tmp_path / name  # it is replaced as a whole
    mkdir = type(tmp_path).mkdir

    def fail(path, *args, **kwargs):
        if path.parent == target:
            raise PermissionError(13, "Permission denied")
        return mkdir(path, *args, **kwargs)

    monkeypatch.setattr(type(tmp_path), "mkdir", fail)
    with pytest.raises(UsageError, match="Permission denied"):
        run_directory.try_targets(tmp_path)


def test_a_detector_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="needs a folder of its own. .*detector holds config.json"):
        run_directory.try_targets(tmp_path)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_model_for_another_device_replaces_no_file_of_others(kind, tmp_path):
    run_directory.try_targets(tmp_path, ("saved_model", "litert"))
    path = tmp_path / "model.tflite"
    path.touch() if kind == "file" else path.mkdir()
    run_directory.refuse_foreign(tmp_path)  # a run without this format writes nothing there
    with pytest.raises(UsageError, match="Received: model.tflite$"):
        run_directory.refuse_foreign(tmp_path, ("litert",))
    with pytest.raises(UsageError, match=str(path)):
        run_directory.try_targets(tmp_path, ("litert",))


def test_a_missing_extra_is_named_before_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mcl_tf\[onnx\]'"):
        run_directory.try_targets(tmp_path, ("onnx",))
