"""Detect scratches on a woven material, in a folder of images: python examples/folder.py [DIR]

It draws the images, so that nothing is downloaded, and takes about a minute. DIR gets them, and the results; it is
a temporary folder by default. The local score of the texture finds small defects and trains no network; the preset
flags/presets/folder.flags adds one for the image as a whole.
"""

import logging
import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image

import mcl_tf
from mcl_tf import experiment

SIZE = 64  # pixels


def draw(rng, scratched: bool) -> np.ndarray:
    """Draw an image uint8 [SIZE, SIZE, 3] of a woven material, with or without a scratch."""
    y, x = np.mgrid[:SIZE, :SIZE]
    period, (left, top) = rng.uniform(7.5, 8.5), rng.uniform(0.0, 8.0, 2)
    threads = np.sin(2 * np.pi * (x + left) / period) + np.sin(2 * np.pi * (y + top) / period)
    grey = 120.0 + rng.normal(0.0, 5.0) + 25.0 * threads + rng.normal(0.0, 8.0, (SIZE, SIZE))
    if scratched:
        angle, distance = rng.uniform(0.0, np.pi), rng.uniform(-20.0, 20.0)
        across = (x - SIZE / 2) * np.cos(angle) + (y - SIZE / 2) * np.sin(angle) - distance
        along = (y - SIZE / 2) * np.cos(angle) - (x - SIZE / 2) * np.sin(angle)
        grey[(np.abs(across) < 1.5) & (np.abs(along) < 20.0)] += 30.0
    return np.clip(grey[..., None] * (1.0, 0.9, 0.75), 0.0, 255.0).astype(np.uint8)


def write_images(folder: pathlib.Path) -> None:
    """Write train/good, test/good and test/scratch."""
    rng = np.random.default_rng(0)
    for name, count in (("train/good", 60), ("test/good", 20), ("test/scratch", 20)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(draw(rng, name.endswith("scratch"))).save(folder / name / f"{index:02}.png")


def main(folder: pathlib.Path) -> None:
    """Draw the images, train, and score files with the SavedModel alone."""
    images, run = folder / "fabric", folder / "run"
    write_images(images)
    config = mcl_tf.Config().replace(dataset=f"{images}/", normal=("good",), score="local", run_dir=str(run))
    experiment.run(config)
    # From here on, the SavedModel is enough.
    mcl_tf.score_files(run / "saved_model", images / "test" / "scratch", folder / "scores.csv")
    print((folder / "scores.csv").read_text().splitlines()[1])


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mcl_tf").setLevel(logging.INFO)
    if sys.argv[1:]:
        main(pathlib.Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(pathlib.Path(temporary))
