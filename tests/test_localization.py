"""Metrics of heat maps on masks whose answer is known."""

import numpy as np
import pytest

from mcl_tf.errors import UsageError
from mcl_tf.localization import localization_metrics

MASKS = np.zeros((2, 20, 20), bool)
MASKS[0, 2:6, 2:6] = MASKS[0, 10:12, 10:12] = MASKS[1, 5:15, 5:7] = True  # 16, 4 and 20 pixels


def test_a_perfect_map():
    assert localization_metrics(MASKS * 1.0, MASKS) == {"pixel_auroc": 1.0, "aupro": pytest.approx(1.0)}


def test_a_uniform_map():
    found = localization_metrics(np.zeros(MASKS.shape), MASKS)
    assert found == {"pixel_auroc": 0.5, "aupro": pytest.approx(0.15)}  # the overlap equals the rate


def test_every_region_counts_alike():
    maps = MASKS * 1.0
    maps[0, 10:12, 10:12] = -1.0  # the smallest of the three regions is found last
    found = localization_metrics(maps, MASKS)
    # Two regions of three are found without a false positive. The next threshold flags all normal pixels, which are
    # equal, and no further region.
    assert found["aupro"] == pytest.approx(2 / 3)
    assert found["pixel_auroc"] == pytest.approx(36 / 40)


def test_the_overlap_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=MASKS.shape) + MASKS
    regions = [np.zeros(MASKS.shape, bool) for _ in range(3)]
    regions[0][0, 2:6, 2:6] = regions[1][0, 10:12, 10:12] = regions[2][1, 5:15, 5:7] = True
    thresholds = np.sort(maps.ravel())[::-1]
    rates = np.array([(maps[~MASKS] >= threshold).mean() for threshold in thresholds])
    overlaps = np.array(
        [np.mean([(maps[region] >= threshold).mean() for region in regions]) for threshold in thresholds]
    )
    grid = np.linspace(0.0, 0.3, 3001)
    expected = np.interp(grid, rates, overlaps).mean()
    assert localization_metrics(maps, MASKS)["aupro"] == pytest.approx(expected, abs=2e-3)  # of the grid


@pytest.mark.parametrize("masks", [np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)])
def test_masks_of_one_kind_are_refused(masks):
    with pytest.raises(UsageError, match="Masks need anomalous and normal pixels. Received:"):
        localization_metrics(np.zeros((1, 4, 4)), masks)
