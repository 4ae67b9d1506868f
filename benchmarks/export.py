"""`export`: the SavedModel, and scoring of files with it, compared with the bare pass of the network."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from unittest import mock

from benchmarks import subjects
from benchmarks.measure import duration_row, rate_row, time_sides

SIZES = {"small": (1024, 128), "resnet18": (128, 64)}  # number of images, images per batch


def rows(repeats: int = 7):
    """Yield the rows."""
    for name, (count, batch_size) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = time_sides(sides(name, count, batch_size, pathlib.Path(folder)), repeats)
        for side, title in (("signature", "serving_default"), ("files", "score_files with PNG files")):
            comparison = f"{title} / bare forward pass of 8 views"
            yield rate_row(f"{side} {name}", comparison, seconds, side, "bare", count, "images/s", at_least=0.9)
        comparison = "one image through serving_default / bare forward pass of its 8 views"
        yield duration_row(f"latency {name}", comparison, seconds, "one", "bare one", calls=10, at_most=1.15)


def sides(name: str, count: int, batch_size: int, folder: pathlib.Path):
    """Return the exported model on batches, on files and on one image, and the bare passes for comparison.

    Args:
      name: the name of the configuration.
      count: the number of images.
      batch_size: the number of images per batch.
      folder: for the SavedModel and the files.
    """
    import tensorflow as tf

    from mcl_tf import file_scoring

    detector, images = subjects.untrained_detector(name), subjects.random_images(count)
    detector.export(folder / "1")
    for index, image in enumerate(images):
        tf.io.write_file(str(folder / f"images/{index:05}.png"), tf.io.encode_png(image))
    bare = subjects.bare_forward(detector.scorer_.network)
    scorer = file_scoring.load_scorer(folder / "1")
    views = tf.random.stateless_uniform((batch_size * 8, subjects.SIZE, subjects.SIZE, 3), [0, 1])
    batches = [tf.constant(images[start : start + batch_size]) for start in range(0, count, batch_size)]

    def score_files():
        output = folder / "scores.csv"
        output.unlink(missing_ok=True)
        # Loading takes the same time whatever the number of images.
        with mock.patch.object(file_scoring, "load_scorer", return_value=scorer):
            file_scoring.score_files(folder / "1", folder / "images", output, batch_size=batch_size)

    def repeat(number, call):
        for _ in range(number):
            call().numpy()

    return {
        "signature": lambda: [scorer(images=batch)["score"].numpy() for batch in batches],
        "files": score_files,
        "bare": functools.partial(repeat, len(batches), lambda: bare(views)),
        "one": functools.partial(repeat, 10, lambda: scorer(images=batches[0][:1])["score"]),
        "bare one": functools.partial(repeat, 10, lambda: bare(views[:8])),
    }
