"""A file of events on a disk that fails."""

import contextlib
import resource

import pytest
import tensorflow as tf

from mcl_tf.summaries.event_file import EventFile
from tests.summaries.events import read_curves


@contextlib.contextmanager
def limited_file_size(folder, left):
    """Let no file grow beyond the largest one of a folder and `left` bytes more, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max((path.stat().st_size for path in folder.glob("*")), default=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("left", [0, 1, 50, 120])  # a record is cut off within its length, header or data
def test_full_disk_ends_the_curves_with_one_warning(left, tmp_path, library_log):
    folder = tmp_path / "train"
    file = EventFile(folder)
    with tf.summary.create_file_writer(str(tmp_path / "other")).as_default(step=5):
        file.write(1, {"loss": 1.0})
        with limited_file_size(folder, left):
            for step in range(2, 5):
                file.write(step, {"loss": 1.0, "more": 2.0, "even_more": 3.0})
        file.write(7, {"loss": 1.0})  # there is space again, but the file is given up
        file.close()
        tf.summary.scalar("theirs", 0.5)  # the caller's own writer and step are as before
    assert [record.levelname for record in library_log.records] == ["WARNING"]
    assert "takes no curves for TensorBoard" in library_log.messages[0]
    assert "File too large" in library_log.messages[0]
    assert "\n" not in library_log.messages[0]
    assert "{{" not in library_log.messages[0]
    assert len(list(folder.iterdir())) == 1
    points = read_curves(folder)["loss"]
    assert points[0] == (1, 1.0)
    assert all(step < 5 for step, _ in points)
    assert read_curves(tmp_path / "other") == {"theirs": [(5, 0.5)]}


def test_a_file_in_place_of_the_folder_gives_one_warning(tmp_path, library_log):
    (tmp_path / "train").write_text("a file in place of the folder")
    file = EventFile(tmp_path / "train")
    for step in range(3):
        file.write(step, {"loss": 3.0})
        file.record(step, lambda: pytest.fail("there is nothing to write to"))
    file.close()
    assert len(library_log.messages) == 1
    assert f"{tmp_path / 'train'} takes no curves" in library_log.messages[0]


def test_other_files_of_the_folder_may_fail_as_well(tmp_path, library_log):
    def write():
        raise OSError(28, "No space left on device", "sprite.png")

    file = EventFile(tmp_path)
    for _ in range(2):
        file.record(0, write)
    assert len(library_log.messages) == 1
    assert "No space left on device" in library_log.messages[0]
