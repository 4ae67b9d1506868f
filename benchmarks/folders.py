"""Folders of images to measure on, made from the images of scikit-image and scikit-learn, and drawn.

python -m benchmarks.folders DIR     writes DIR/faces, brick, grass, gravel, fives and rings (pip install scikit-image)
python -m benchmarks.quality --preset=folder --dataset=DIR/faces --normal=good --seeds=1 --methods=mcl,features

Each has train/good, test/good and test/<kind of anomaly>. They were not used to choose any setting.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from PIL import Image, ImageDraw

TEXTURES = ("brick", "grass", "gravel")
SIDE, SPOT = 96, 24  # pixels of a texture and of a spot of another one
BACKGROUND = (200, 200, 205)


def main() -> int:
    """Write all folders."""
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m benchmarks.folders DIR")
    target, rng = pathlib.Path(sys.argv[1]), np.random.default_rng(0)
    _faces(target / "faces")
    _textures(target, rng)
    _rings(target / "rings", rng)
    _fives(target / "fives")
    return 0


def _write(folder: pathlib.Path, images) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / f"{index}.png")


def _faces(folder: pathlib.Path) -> None:
    """Write 100 faces, and 100 patches of backgrounds, of 25x25 pixels (a part of Labeled Faces in the Wild)."""
    import skimage.data

    images = skimage.data.lfw_subset()
    images = images / images.max() * 255.0
    _write(folder / "train" / "good", images[:60])
    _write(folder / "test" / "good", images[60:100])
    _write(folder / "test" / "other", images[100:])


def _textures(target: pathlib.Path, rng) -> None:
    """Write parts of three textures; anomalies are parts of another one, as a whole or as a round spot.

    Training images come from the upper rows of a texture, test images from the lower ones.
    """
    import skimage.data

    textures = {name: getattr(skimage.data, name)() for name in TEXTURES}
    for name, texture in textures.items():
        upper, lower, others = texture[:320], texture[320:], [other for other in TEXTURES if other != name]
        _write(target / name / "train" / "good", [_part(upper, rng) for _ in range(200)])
        _write(target / name / "test" / "good", [_part(lower, rng) for _ in range(80)])
        for other in others:
            _write(target / name / "test" / other, [_part(textures[other], rng) for _ in range(40)])
        spots = [_with_spot(_part(lower, rng), _part(textures[others[i % 2]], rng, SPOT), rng) for i in range(80)]
        _write(target / name / "test" / "spot", spots)


def _part(texture, rng, side: int = SIDE):
    """Return a random square of a texture as float64."""
    row, column = (int(rng.integers(0, length - side + 1)) for length in texture.shape)
    return texture[row : row + side, column : column + side].astype(np.float64)


def _with_spot(image, spot, rng):
    """Return an image with a round spot, which has the mean and contrast of the place that it covers."""
    row, column = rng.integers(0, SIDE - SPOT, 2)
    place = image[row : row + SPOT, column : column + SPOT]
    rows, columns = np.mgrid[:SPOT, :SPOT] - (SPOT - 1) / 2
    inside = rows**2 + columns**2 < (SPOT / 2) ** 2
    place[inside] = ((spot - spot.mean()) / spot.std() * place.std() + place.mean())[inside]
    return image


def _rings(folder: pathlib.Path, rng) -> None:
    """Write drawn rings on a plain background; anomalies have a scratch or a piece broken off."""
    _write(folder / "train" / "good", [_ring(rng) for _ in range(150)])
    _write(folder / "test" / "good", [_ring(rng) for _ in range(60)])
    for defect in ("scratch", "chipped"):
        _write(folder / "test" / defect, [_ring(rng, defect) for _ in range(60)])


def _ring(rng, defect: str = ""):
    """Return one ring of random place, size and grey level, with noise: float64 [128, 128, 3]."""
    image = Image.new("RGB", (128, 128), BACKGROUND)
    draw = ImageDraw.Draw(image)
    center, grey = 64 + rng.normal(0, 2, 2), int(90 + rng.normal(0, 6))
    outer, inner = 40 + rng.normal(0, 0.7), 20 + rng.normal(0, 0.7)
    for radius, colour in ((outer, (grey, grey, grey + 8)), (inner, BACKGROUND)):
        draw.ellipse([*(center - radius), *(center + radius)], fill=colour)
    angle, turn = rng.uniform(0, 2 * np.pi, 2)
    direction = np.array([np.cos(angle), np.sin(angle)])
    if defect == "scratch":
        middle, half = center + (inner + outer) / 2 * direction, 8 * np.array([np.cos(turn), np.sin(turn)])
        draw.line([*(middle - half), *(middle + half)], fill=(grey + 50,) * 3, width=2)
    elif defect == "chipped":
        edge = center + outer * direction
        draw.ellipse([*(edge - 6), *(edge + 6)], fill=BACKGROUND)
    return np.asarray(image, np.float64) + rng.normal(0, 4, (128, 128, 1))


def _fives(folder: pathlib.Path) -> None:
    """Write the fives of scikit-learn's digits, 8x8 pixels, and some of the other digits."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) * (255 / 16)
    fives = images[labels == 5]
    _write(folder / "train" / "good", fives[:120])
    _write(folder / "test" / "good", fives[120:])
    _write(folder / "test" / "other", images[labels != 5][::8])


if __name__ == "__main__":
    sys.exit(main())
