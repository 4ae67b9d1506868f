"""Folders of images: files, classes, damaged files, and folders of another layout."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mcl_tf.data import layouts
from mcl_tf.data.folders import Folder
from mcl_tf.data.room import Room
from mcl_tf.errors import UsageError
from tests.encoded_images import damaged_jpeg


def hold(folder, *splits):
    """Read all images of some splits into memory."""
    for split in splits:
        folder.hold(folder.chosen(split), 16, "squeeze", Room())


def test_lists_files_by_class_and_path(image_folder):
    folder = Folder(str(image_folder))
    assert folder.class_names == ("cut", "good")
    paths, labels = folder.files["train"]
    assert paths == [
        "train/good/0.png",
        "train/good/1.JPG",
        "train/good/2.bmp",
        "train/good/3.gif",
        "train/good/4.jpeg",
        "train/good/5.PNG",
        "train/good/deep er/6.png",
        "train/good/deep er/7.png",
    ]
    assert labels.tolist() == [1] * 8
    assert folder.files["test"][1].tolist() == [0, 0, 1, 1, 1]


def test_has_the_shape_of_the_first_image(image_folder, folder_copy):
    assert Folder(str(image_folder)).image_shape() == (20, 24, 3)
    (folder_copy / "train" / "good" / "0.png").write_bytes(b"not an image")
    assert Folder(str(folder_copy)).image_shape() == (23, 25, 3)  # that of the second image


def test_has_no_shape_without_a_readable_image(tmp_path):
    for split in layouts.SPLITS:
        (tmp_path / split / "good").mkdir(parents=True)
        (tmp_path / split / "good" / "0.png").write_bytes(b"not an image")
    assert Folder(str(tmp_path)).image_shape() == (None, None, 3)


def test_keeps_the_sizes_of_images_and_gives_them_three_channels(image_folder):
    folder = Folder(str(image_folder))
    images = [image for image, _ in folder.read("train", [1]).as_numpy_iterator()]
    assert [image.shape for image in images[:6]] == [(20 + 3 * i, 24 + i, 3) for i in range(6)]
    for image in images[:7]:  # 4: what JPEG and the palette of a GIF may round off
        np.testing.assert_allclose(image, np.broadcast_to([20, 200, 20], image.shape), atol=4)
    assert np.ptp(images[7]) == 0  # grey in all three channels
    assert [label for _, label in folder.read("test").as_numpy_iterator()] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("created", "message"),
    [
        ([], "There is no such folder.*Received: .*/set"),
        ([""], r"There are no images \(.bmp, .*\) there. Possible: a folder DIR"),
        (["a/1.svg"], r"There are no images \(.bmp, .*\) there"),
        (["test/a/1.png"], "no train images"),
        (["train/a/1.svg", "test/a/1.png"], r"no images \(.bmp, .*\) in the classes of train"),
    ],
)
def test_refuses_a_folder_of_another_layout(created, message, tmp_path):
    for name in created:
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"") if path.suffix else path.mkdir(exist_ok=True)
    with pytest.raises(UsageError, match=message) as error:
        Folder(str(tmp_path / "set"))
    assert "\n" not in str(error.value)


def test_needs_the_named_splits_only(folder_copy):
    shutil.rmtree(folder_copy / "train")
    with pytest.raises(UsageError, match="no train images"):
        Folder(str(folder_copy))
    folder = Folder(str(folder_copy), ("test",))
    assert [len(folder.files[split][0]) for split in layouts.SPLITS] == [0, 5]


def test_refuses_a_class_without_images_in_the_split(image_folder):
    message = "no train images of this class. Possible for normal: 1 good. Received: 0 cut"
    with pytest.raises(UsageError, match=message):
        Folder(str(image_folder)).read("train", [0])


def test_reads_names_that_are_not_utf8(tmp_path):
    for split in layouts.SPLITS:
        path = os.path.join(os.fsencode(tmp_path), split.encode(), b"good")
        os.makedirs(path)
        with open(os.path.join(path, b"\xff.png"), "wb") as file:
            file.write(tf.io.encode_png(np.zeros((3, 3, 3), np.uint8)).numpy())
    folder = Folder(str(tmp_path))
    assert len(list(folder.read("train"))) == 1
    assert folder.names("test") == [r"test/good/\udcff.png"]


def test_names_the_first_damaged_file_and_counts_the_others(folder_copy):
    for name in ("train/good/2.bmp", "test/good/1.png", "test/cut/0/9.png"):
        (folder_copy / name).write_bytes((folder_copy / name).read_bytes()[:50])
    folder = Folder(str(folder_copy))
    message = r"test/cut/0/9.png is a PNG.*kind \(and 1 more file cannot be read\)$"
    with pytest.raises(UsageError, match=message) as error:
        hold(folder, "test", "train")
    assert "\n" not in str(error.value)


def test_accepts_files_that_can_be_decoded(image_folder):
    hold(Folder(str(image_folder)), "train", "test")


def test_names_a_file_that_has_disappeared(folder_copy):
    folder = Folder(str(folder_copy))
    (folder_copy / "test" / "good" / "0.png").unlink()
    with pytest.raises(UsageError, match="test/good/0.png cannot be read: No such file or directory$"):
        hold(folder, "test")


def test_counts_what_is_left_out_in_one_line_each(folder_copy, library_log):
    for name in ("train/good/a.svg", "train/good/b.SVG", "test/cut/c.pdf", "test/README"):
        (folder_copy / name).write_bytes(b"")
    shutil.copy(folder_copy / "test" / "good" / "0.png", folder_copy / "test" / "0.png")
    (folder_copy / "test" / "good" / "again.png").symlink_to("0.png")
    assert len(Folder(str(folder_copy)).files["test"][0]) == 5
    assert library_log.messages == [
        "5 files of other formats were left out: .svg (2), .pdf (1), .txt (1), no ending (1)",
        "1 image outside of a class folder was left out",
        "1 link to an image that is read already was left out",
    ]


def test_a_table_reads_what_it_names_and_leaves_nothing_out(folder_copy, library_log, monkeypatch):
    table = "path,label,split\ntrain/good/0.png,good,train\ntest/cut/0/9.png,bent,test\n"
    (folder_copy / "parts.csv").write_text(table)
    monkeypatch.chdir(folder_copy)
    folder = Folder("parts.csv")
    folder.divide([1], 0)
    assert (folder.class_names, folder.names("train"), folder.names("test")) == (
        ("bent", "good"),
        ["train/good/0.png"],
        ["test/cut/0/9.png"],
    )
    assert len(list(folder.read("test"))) == 1
    assert library_log.messages == ["parts.csv has a table. Images for train: 1 good; test: 1 bent"]


def test_names_the_files_left_out_if_there_is_no_other(tmp_path, library_log):
    for split in layouts.SPLITS:
        (tmp_path / split / "good").mkdir(parents=True)
        (tmp_path / split / "good" / "0.svg").write_bytes(b"")
    with pytest.raises(UsageError, match="There are no images"):
        Folder(str(tmp_path))
    assert library_log.messages == ["2 files of other formats were left out: .svg (2)"]


def test_reads_jpeg_under_all_its_endings(folder_copy):
    for ending in ("jfif", "JPE"):
        Image.new("RGB", (5, 5)).save(folder_copy / "train" / "good" / f"x.{ending}", "JPEG")
    assert len(Folder(str(folder_copy)).files["train"][0]) == 10


@pytest.mark.parametrize("split", layouts.SPLITS)
def test_refuses_a_folder_that_cannot_be_listed(split, image_folder, monkeypatch):
    scandir = os.scandir

    def fail(path):
        if str(path).endswith(os.path.join(split, "good")):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(UsageError, match=f"{split}/good cannot be listed: Permission denied$"):
        Folder(str(image_folder))


def test_refuses_an_image_that_is_no_file(folder_copy):
    (folder_copy / "train" / "good" / "gone.png").symlink_to("nowhere")
    with pytest.raises(UsageError, match="train/good/gone.png is a pipe, a device or a link to nowhere"):
        Folder(str(folder_copy))


def test_leaves_links_to_their_own_folders_and_housekeeping_out(folder_copy):
    expected = Folder(str(folder_copy)).files
    good = folder_copy / "train" / "good"
    shutil.copytree(good / "deep er", folder_copy / "train" / "@eaDir")
    shutil.copytree(good / "deep er", good / "@eaDir" / "0.png")
    for path in (good / "loop", folder_copy / "train" / "all", good / "deep er" / "up"):
        path.symlink_to(good)
    folder = Folder(str(folder_copy))
    assert folder.class_names == ("cut", "good")
    assert folder.files["train"][0] == expected["train"][0]


def test_names_a_jpeg_whose_inside_is_damaged(folder_copy):
    path = folder_copy / "test" / "cut" / "ü, 1.jpg"
    path.write_bytes(damaged_jpeg())
    with pytest.raises(UsageError, match="ü, 1.jpg is a JPEG with damaged data$"):
        hold(Folder(str(folder_copy)), "test")
