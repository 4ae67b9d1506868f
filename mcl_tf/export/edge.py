"""What the files for other devices have in common: the graph of a score, and how a file is written.

A file for LiteRT or ONNX Runtime holds everything from pixels to answers: the views of self-ensemble inference, the
network, the Gaussians, the units, the held-out scores and the threshold. Its input is

- `images`: uint8 [n, s, s, 3], red, green, blue, at the stored size s, `image_size` in the model card. The device
  resizes its images to it: bilinear with antialiasing, as Pillow's `image.resize((s, s), Image.Resampling.BILINEAR)`
  does for `resize` "squeeze" in the card; `views.prepare` describes the other ways.

Its outputs are those of `serving_default`, see `mcl_tf.export.saved_model`, without the class names:

- `score` float32 [n], higher for more anomalous images;
- `is_anomaly` bool [n], whether the score is above the threshold. Such a graph cannot fail, so that an image counts as
  an anomaly if its score is not a number;
- `p_value` float32 [n];
- `nearest_class` int32 [n], an index of `classes` in the card.

The model card, JSON, lies within the file. It is also the mark of this library: an existing file without it is never
replaced.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from mcl_tf.config import DataConfig
from mcl_tf.errors import UsageError
from mcl_tf.export.signatures import ServedScorer
from mcl_tf.utils.atomic import atomic_file, try_folder

OUTPUTS = ("score", "is_anomaly", "p_value", "nearest_class")


def scoring_function(served: ServedScorer) -> Callable:
    """Return a function from uint8 [n, s, s, 3] to {output: tensor [n]} of operations that the runtimes have."""
    scorer = served.scorer
    if scorer.network is not None:
        scorer = scorer.with_network(scorer.network)
        scorer.to_size = resize_by_products
    threshold, held_out = (np.asarray(value) for value in (served.scorer.threshold, served.calibration_scores))

    def score(images):
        outputs = scorer.score_batch(images)
        scores = outputs["score"]
        at_least = tf.reduce_sum(tf.cast(held_out >= scores[:, None], tf.int32), axis=1)
        return {
            "score": scores,
            "is_anomaly": tf.logical_not(scores <= threshold),
            "p_value": tf.cast(1 + at_least, tf.float32) / (1.0 + len(held_out)),
            "nearest_class": outputs["nearest_class"],
        }

    return score


def resize_by_products(images, size: int, resize: str = DataConfig.resize):
    """Resize images as `views.prepare` does, by products with constant matrices; the runtimes lack its operation.

    Args:
      images: uint8 [n, s, s, 3] of one size s.
      size: side of the result in pixels.
      resize: has no effect, because the images are square.

    Returns:
      uint8 [n, size, size, 3]. A pixel half-way between two grey levels may be rounded to the other one.
    """
    del resize
    side = images.shape[1]
    if side == size:
        return images
    with tf.init_scope():  # the matrix is computed now and not by the device
        eye = tf.eye(side)[None, ..., None]
        weights = tf.image.resize(eye, (size, side), antialias=True)[0, ..., 0].numpy()
    rows = tf.einsum("ts,nshc->nthc", weights, tf.cast(images, tf.float32))
    return tf.cast(tf.round(tf.einsum("uh,nthc->ntuc", weights, rows)), tf.uint8)


def check_target(path, ending: str, read_card: Callable) -> pathlib.Path:
    """Check that a model can be written to a file, which need not exist; return its absolute path.

    Args:
      path: the file.
      ending: what its name must end in.
      read_card: function that returns the card of a file, or raises `UsageError`.

    Raises:
      UsageError: the name has another ending, nothing can be written there, or there is something that no export has
        written.
    """
    path = pathlib.Path(path).expanduser().resolve()
    if path.suffix != ending:
        raise UsageError(f"The name of the file must end in {ending}. Received: {path}")
    if path.is_dir() or os.path.ismount(path):
        raise UsageError(f"The model is a file. Received: {path}, which is a folder or a mount point")
    if path.exists():
        try:
            read_card(path)
        except UsageError:
            raise UsageError(f"{path} exists, and no export has written it. Choose another name") from None
    try:
        try_folder(path.parent)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return path


def write_file(path: pathlib.Path, data: bytes) -> str:
    """Write a file atomically and return its path.

    Raises:
      UsageError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, "wb") as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return str(path)
