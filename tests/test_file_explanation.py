"""Where anomalies of image files are, and pictures of the files under their heat maps."""

import csv
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import mcl_tf
from mcl_tf import heat_maps
from mcl_tf.errors import UsageError
from tests.helpers import DETECTOR_OPTIONS, make_once, tinted_images

NAMES = ["a.png", "deep/er/b.webp", "deep/c.tif"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A detector of the local score and its SavedModel."""

    def make(folder):
        detector = mcl_tf.AnomalyDetector(**DETECTOR_OPTIONS, score="local", detail_size=24)
        detector.fit(tinted_images(30, 24, 30)[0])
        detector.save(folder / "detector")
        detector.export(folder / "saved_model", new_version=True)

    folder = make_once(tmp_path_factory, "local_export", make)
    return mcl_tf.AnomalyDetector.load(folder / "detector"), folder / "saved_model"


@pytest.fixture
def images(tmp_path):
    """A folder with a normal image, and two whose lower right is flat."""
    pixels = tinted_images(3, 24, 30, seed=1)[0]
    pixels[1:, 16:, 21:] = 255
    for name, image in zip(NAMES, pixels, strict=True):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, lossless=True)
    (tmp_path / "images" / "deep" / "bad.png").write_bytes(b"bad")
    return tmp_path / "images", pixels


def score(saved_model, images, folder, **options):
    output = folder / "scores.csv"
    mcl_tf.score_files(saved_model, images, output, **options)
    with open(output, newline="") as file:
        return list(csv.DictReader(file))


def test_says_where_anomalies_are(exported, images, tmp_path):
    rows = score(exported[1], images[0], tmp_path)
    assert [row["is_anomaly"] for row in rows] == ["0", "1", "1"]
    assert rows[0]["place"] == ""
    assert all(row["place"].startswith("lower right, ") for row in rows[1:])
    assert not (tmp_path / "maps").exists()


def test_draws_all_images_at_their_own_size(exported, images, tmp_path):
    detector, saved_model = exported
    folder, pixels = images
    maps = folder / "maps"  # its pictures are not scored later
    rows = score(saved_model, folder, tmp_path, heatmaps=str(maps))
    assert len(rows) == 3
    heat = detector.explain(pixels)["heat_map"]
    for name, image, expected in zip(NAMES, pixels, heat, strict=True):
        found = np.asarray(Image.open(maps / f"{name}.png")).astype(int)
        # Where colours begin may differ by rounding between the library and the SavedModel.
        assert np.abs(found - heat_maps.overlay(image, expected)).mean() < 1.0
    assert len(score(saved_model, folder, tmp_path, heatmaps=str(maps), resume=True)) == 3
    with pytest.raises(UsageError, match="folder of heat maps .* has files. Resume to add to it"):
        mcl_tf.score_files(saved_model, folder, tmp_path / "again.csv", heatmaps=str(maps))
    assert not (tmp_path / "again.csv").exists()


def test_a_folder_that_cannot_be_written(exported, images, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="folder of heat maps .*file cannot be written: (Not a directory|File exists)"):
        score(exported[1], images[0], tmp_path, heatmaps=tmp_path / "file")


def test_a_score_of_the_image_as_a_whole_has_a_place_too(tiny_export, tmp_path):
    shutil.copytree(tiny_export / "saved_model", tmp_path / "saved_model")
    mcl_tf.export.set_threshold(tmp_path / "saved_model", value=-1e6)  # below all scores
    Image.fromarray(tinted_images(1)[0][0]).save(tmp_path / "0.png")
    (row,) = score(tmp_path / "saved_model", str(tmp_path / "*.png"), tmp_path)
    assert re.fullmatch(r"the whole image|[a-z ]+, (less than 1|\d+) % of the image", row["place"])
