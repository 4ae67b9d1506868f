"""Masks of anomalous pixels: which image they belong to, and what they say."""

import numpy as np
import pytest
from PIL import Image

from mcl_tf.data.masks import find_masks, read_mask
from mcl_tf.errors import UsageError

NAMES = ["test/good/0.png", "test/cut/0.png", "test/cut/deep/1.jpg", "test/cut/2_mask.png"]


@pytest.fixture
def folder(tmp_path):
    """A folder with masks of three images, and of one that is not there."""
    mask = np.zeros((20, 10), np.uint8)
    mask[5:15, :5] = 255
    for name in ("cut/0_mask.png", "cut/deep/1.png", "cut/2_mask_mask.png", "cut/9_mask.png"):
        path = tmp_path / "ground_truth" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    (tmp_path / "ground_truth" / "notes.txt").write_text("mine")
    return tmp_path


def test_finds_the_mask_of_every_image(folder, library_log):
    assert find_masks(str(folder), NAMES) == {
        "test/cut/0.png": str(folder / "ground_truth/cut/0_mask.png"),
        "test/cut/deep/1.jpg": str(folder / "ground_truth/cut/deep/1.png"),
        "test/cut/2_mask.png": str(folder / "ground_truth/cut/2_mask_mask.png"),
    }
    (message,) = library_log.messages
    assert message == f"Masks must have the names of test images. Received: {folder}/ground_truth/cut/9_mask.png"


@pytest.mark.parametrize("dataset", ["digits", "nowhere"])
def test_other_datasets_have_no_masks(dataset):
    assert find_masks(dataset, NAMES) == {}


def test_reads_a_mask_as_its_image(folder):
    path = str(folder / "ground_truth/cut/0_mask.png")
    found = read_mask(path, 8, "squeeze")
    np.testing.assert_array_equal(found, np.pad(np.ones((4, 4), bool), ((2, 2), (0, 4))))
    assert read_mask(path, 10, "crop")[:, :5].all()


def test_a_mask_that_is_no_image(folder):
    path = folder / "ground_truth/cut/0_mask.png"
    path.write_bytes(b"bad")
    with pytest.raises(UsageError, match=f"The mask {path} cannot be read as an image"):
        read_mask(str(path), 8, "squeeze")
