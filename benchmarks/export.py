"""`export`: the SavedModel, and `--mode=score` of files with it, against the bare 8-view pass."""

from __future__ import annotations

import functools
import pathlib
import tempfile
from unittest import mock

from benchmarks import subjects
from benchmarks.measure import duration, rate, times

SIZES = {"small": (1024, 128), "resnet18": (128, 64)}  # pictures, pictures a batch


def rows(repeats: int = 7):
    """Yields the rows."""
    for name, (count, batch) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            found = times(sides(name, count, batch, pathlib.Path(folder)), repeats)
        for side, title in (("signature", "serving_default"), ("files", "--mode=score of PNG files")):
            what = f"{title} / bare forward pass of 8 views"
            yield rate(f"{side} {name}", what, found, side, "bare", count, "pictures/s", at_least=0.9)
        what = "one picture through serving_default / bare forward pass of its 8 views"
        yield duration(f"latency {name}", what, found, "one", "bare one", calls=10, at_most=1.15)


def sides(name, count, batch, folder):
    """The exported model in batches, from files, and with one picture; and the bare passes beside them."""
    import tensorflow as tf

    from mcl_tf import file_scoring

    detector, pictures = subjects.untrained_detector(name), subjects.pictures(count)
    detector.export(folder / "1")
    for place, picture in enumerate(pictures):
        tf.io.write_file(str(folder / f"pictures/{place:05}.png"), tf.io.encode_png(picture))
    bare = subjects.bare_forward(detector.scorer_.network)
    scorer = file_scoring.load_scorer(folder / "1")
    config = detector.config.replace(
        saved_model=str(folder / "1"), images=str(folder / "pictures"), scoring_batch_size=batch
    )
    views = tf.random.stateless_uniform((batch * 8, subjects.SIDE, subjects.SIDE, 3), [0, 1])
    batches = [tf.constant(pictures[start : start + batch]) for start in range(0, count, batch)]

    def score_files():
        output = folder / "scores.csv"
        output.unlink(missing_ok=True)
        # Loading is once, whatever the number of pictures.
        with mock.patch.object(file_scoring, "load_scorer", return_value=scorer):
            file_scoring.score_files(config.replace(output=str(output)))

    def repeat(times_, call):
        for _ in range(times_):
            call().numpy()

    return {
        "signature": lambda: [scorer(images=images)["score"].numpy() for images in batches],
        "files": score_files,
        "bare": functools.partial(repeat, len(batches), lambda: bare(views)),
        "one": functools.partial(repeat, 10, lambda: scorer(images=batches[0][:1])["score"]),
        "bare one": functools.partial(repeat, 10, lambda: bare(views[:8])),
    }
