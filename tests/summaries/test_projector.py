"""The files of the projector, and their limits."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mcl_tf import scored_test
from mcl_tf.summaries import projector
from tests.helpers import tinted_images


def make_scores(count, label="cut", name="test/{}.png"):
    is_anomaly = np.arange(count) % 2 == 1
    labels = np.where(is_anomaly, label, "good")
    names = np.array([name.format(index) for index in range(count)])
    values = np.arange(count, dtype=np.float32)
    return scored_test.TestScores(names, labels, is_anomaly, values, values)


def test_every_point_has_its_image_class_kind_and_score(tiny_detector, tmp_path, monkeypatch):
    """Every third of 12 images, if four points are possible."""
    monkeypatch.setattr(projector, "POINTS", 4)
    images, scores = tinted_images(12, seed=4)[0], make_scores(12)
    test = tf.data.Dataset.from_tensor_slices((images, scores.is_anomaly, scores.names, scores.labels))
    projector.write_embeddings(tmp_path, tiny_detector.scorer_, test, scores, threshold=5.0)
    rows = [line.split("\t") for line in (tmp_path / "metadata.tsv").read_text().splitlines()]
    assert rows == [
        ["label", "kind", "score", "verdict", "image"],
        ["good", "normal", "0", "passed", "test/0.png"],
        ["cut", "anomaly", "3", "passed", "test/3.png"],
        ["good", "normal", "6", "flagged", "test/6.png"],
        ["cut", "anomaly", "9", "flagged", "test/9.png"],
    ]
    points = np.loadtxt(tmp_path / "embeddings.tsv", delimiter="\t")
    embeddings = tiny_detector.scorer_.embed(images[::3], 1).numpy()[:, 0]
    # Principal components keep the distances, of which four points have no more than three dimensions.
    for mine, theirs in ((points, embeddings), (points[::-1], embeddings[::-1])):
        expected = np.linalg.norm(theirs - theirs[0], axis=1)
        np.testing.assert_allclose(np.linalg.norm(mine - mine[0], axis=1), expected, atol=1e-3)
    sheet = np.asarray(Image.open(tmp_path / "sprite.png"))
    assert sheet.shape == (32, 32, 3)
    np.testing.assert_array_equal(sheet[16:, :16], images[6])
    config = (tmp_path / "projector_config.pbtxt").read_text()
    assert 'sprite.png"' in config
    assert config.count("single_image_dim: 16") == 2


def test_names_stay_within_their_column():
    scores = make_scores(2, label='<b>"\t', name="a\tb\nc{}\u2028.png")
    rows = projector.metadata(scores, slice(None), 0.0)
    assert {len(row) for row in rows} == {5}
    assert not any(set(cell) & set("\t\n\r\u2028") for row in rows for cell in row)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 3), (1000, 32)])
def test_a_sprite_is_square_and_not_larger_than_a_browser_shows(count, columns):
    thumbnails = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 3)  # of one pixel
    sheet = projector.sprite(thumbnails)
    assert sheet.shape == (columns, columns, 3)
    np.testing.assert_array_equal(sheet[..., 0].ravel()[:count], np.arange(count, dtype=np.uint8))
    assert projector.THUMBNAIL * columns <= 8192


@pytest.mark.parametrize(
    ("shape", "expected"), [((80, 70), (80, 64)), ((9, 5), (9, 5)), ((9, 70), (9, 9)), ((1, 70), (1, 70))]
)
def test_points_have_few_dimensions(shape, expected, rng):
    assert projector.principal_components(rng.normal(size=shape)).shape == expected
