"""Which images are shown, and their pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from mcl_tf.report import sheets


def decoded(uri):
    """Return the kind and the pixels of a data URI."""
    head, _, contents = uri.partition(";base64,")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(contents))))


def test_images_of_the_sheets_by_hand():
    # From low to high scores: indices 3, 0, 2, 4, 1. Images 0 and 1 are anomalous.
    found = sheets.sheet_indices([1, 1, 0, 0, 0], [2.0, 9.0, 3.0, 1.0, 4.0], count=2)
    assert {title: indices.tolist() for title, indices in found.items()} == {
        "Normal images scored highest": [4, 2],
        "Anomalies scored lowest": [0, 1],
        "Anomalies scored highest": [1, 0],
    }
    found = sheets.sheet_indices([0, 0, 0], [2.0, 9.0, 3.0], count=2)
    assert [indices.tolist() for indices in found.values()] == [[1, 2], [0, 2]]


def test_small_images_are_stored_exactly(rng):
    image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    head, pixels = decoded(sheets.data_uri(image))
    assert head == "data:image/png"
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize(("shape", "expected"), [((300, 600), (80, 160)), ((100, 100), (100, 100))])
def test_large_images_become_thumbnails(shape, expected):
    uri = sheets.data_uri(np.full((*shape, 3), (200, 90, 30), np.uint8))
    head, pixels = decoded(uri)
    assert head == "data:image/jpeg"
    assert pixels.shape == (*expected, 3)
    np.testing.assert_allclose(pixels.mean((0, 1)), (200, 90, 30), atol=3)
    assert len(uri) < 3000


def test_heat_is_normalised_over_all_images(rng):
    heat = rng.normal(size=(4, 8, 8)).astype(np.float32)
    entries = [sheets.Entry("a", "b", 1.0, 0.5, np.zeros((8, 8, 3), np.uint8), part) for part in heat]
    assert sheets.heat_range(entries) == pytest.approx((np.median(heat), np.quantile(heat, 0.995)))
    constant = [sheets.Entry("a", "b", 1.0, 0.5, np.zeros((8, 8, 3), np.uint8), np.ones((8, 8)))]
    low, high = sheets.heat_range(constant)
    assert low < high
    assert sheets.heat_range([sheets.Entry("a", "b", 1.0, 0.5, np.zeros((8, 8, 3), np.uint8))]) is None
    assert sheets.heat_legend(None) == ""
