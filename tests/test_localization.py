"""Metrics of heat maps on masks whose answer is known."""

import numpy as np
import pytest
from PIL import Image

from mcl_tf import experiment
from mcl_tf.config import Config
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


def test_a_run_on_a_folder_reports_how_well_places_are_found(tmp_path):
    """The local score finds flat squares on noise, whose masks are there; an anomaly without a mask is left out."""
    rng, folder = np.random.default_rng(0), tmp_path / "parts"
    for name, count in (("train/good", 30), ("test/good", 4), ("test/flat", 5)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            image, mask = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8), np.zeros((24, 24), np.uint8)
            if name == "test/flat":
                image[4:14, 10:20], mask[4:14, 10:20] = 128, 255
                (folder / "ground_truth" / "flat").mkdir(parents=True, exist_ok=True)
                if index < 4:
                    Image.fromarray(mask).save(folder / "ground_truth" / "flat" / f"{index}_mask.png")
            Image.fromarray(image).save(folder / name / f"{index}.png")
    config = Config().replace(dataset=str(folder), normal=("good",), score="local", run_dir=str(tmp_path / "run"))
    report = experiment.run(config)
    found = report["localization"]
    assert found["images"] == 8
    assert found["pixel_auroc"] > 0.9
    assert found["aupro"] > 0.6


@pytest.mark.parametrize("masks", [np.zeros((1, 4, 4), bool), np.ones((1, 4, 4), bool)])
def test_masks_of_one_kind_are_refused(masks):
    with pytest.raises(UsageError, match="Masks need anomalous and normal pixels. Received:"):
        localization_metrics(np.zeros((1, 4, 4)), masks)
