"""Where it is: heat maps on defects that are pasted onto real normal images, beside maps that know nothing.

python -m benchmarks.localization --dataset=DIR --preset=folder --seed=1

The normal test images of a folder get one defect each: a piece of another normal image, of random place, side (4 to
20 % of the image's) and contrast, whose mask is known. The maps are compared with a uniform map and with the magnitude
of edges. For a folder with masks of its own (ground_truth), main.py reports the same metrics.
"""

from __future__ import annotations

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import numpy as np

PRESETS = pathlib.Path(__file__).parent.parent / "flags" / "presets"
SIDES = (0.04, 0.2)  # of a defect, as shares of the image's side


def main() -> None:
    """Train on a folder, paste defects and print the metrics of all maps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.localization")
    parser.add_argument("--preset", default="folder", help="name of a file in flags/presets")
    parser.add_argument("--dataset", required=True, help="a folder")
    parser.add_argument("--normal", default="good", help="the normal class")
    parser.add_argument("--seed", default="1", help="seed of the training and of the defects")
    parser.add_argument("--options", nargs="*", default=[], help="further flags for the preset")
    options = parser.parse_args()

    from absl import flags as absl_flags

    import flags
    from mcl_tf import AnomalyDetector
    from mcl_tf.data.tasks import build_task
    from mcl_tf.localization import localization_metrics

    arguments = [f"--flagfile={PRESETS / options.preset}.flags", f"--dataset={options.dataset}"]
    absl_flags.FLAGS(["", *arguments, f"--normal={options.normal}", f"--seed={options.seed}", *options.options])
    config = flags.config_from_flags(absl_flags.FLAGS)
    task = build_task(config.data, score=config.scoring.score)
    detector = AnomalyDetector(config, image_size=task.image_size, detail_size=task.detail_size).fit(task.train)
    normal = np.array([image for image, is_anomaly, *_ in task.test.as_numpy_iterator() if not is_anomaly])
    images, masks = paste_defects(normal, int(options.seed))
    maps = {
        "heat map": detector.explain(images)["heat_map"],
        "magnitude of edges": _edges(images),
        "uniform": np.zeros(masks.shape),
    }
    for name, values in maps.items():
        found = localization_metrics(values, masks)
        shown = ", ".join(f"{metric} {value:.3f}" for metric, value in found.items())
        print(f"{pathlib.Path(options.dataset).name} {options.preset} seed {options.seed} {name}: {shown}", flush=True)


def paste_defects(images, seed: int):
    """Paste a piece of another image onto every image.

    Args:
      images: uint8 [n, s, s, 3].
      seed: of places, sides and contrasts.

    Returns:
      uint8 [n, s, s, 3], bool [n, s, s].
    """
    rng = np.random.default_rng([seed, *b"defects"])
    pasted, masks, size = images.copy(), np.zeros(images.shape[:3], bool), images.shape[1]
    for index in range(len(images)):
        height, width = rng.integers(max(2, int(SIDES[0] * size)), int(SIDES[1] * size) + 1, 2)
        row, column = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        source_row, source_column = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        other = images[(index + rng.integers(1, len(images))) % len(images)]
        piece = other[source_row : source_row + height, source_column : source_column + width].astype(np.float64)
        piece = (piece - piece.mean()) * rng.uniform(0.5, 1.5) + piece.mean() + rng.uniform(-25.0, 25.0)
        place = (index, slice(row, row + height), slice(column, column + width))
        pasted[place], masks[place] = piece.round().clip(0, 255), True
    return pasted, masks


def _edges(images) -> np.ndarray:
    from scipy import ndimage

    grey = images.mean(axis=-1)
    return np.array([ndimage.gaussian_gradient_magnitude(image, 2.0) for image in grey])


if __name__ == "__main__":
    main()
