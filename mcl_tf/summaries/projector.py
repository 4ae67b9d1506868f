"""Embeddings of test images for TensorBoard's projector, with thumbnails, class, kind and score of every image."""

from __future__ import annotations

import math
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.decomposition import PCA
from tensorboard.plugins import projector

from mcl_tf import views
from mcl_tf.errors import printable
from mcl_tf.utils.atomic import atomic_file

POINTS = 1000  # the most images, which are spread evenly over the test split
DIMENSIONS = 64  # of a point, principal components of the embedding; more only make the page slower
THUMBNAIL = 64  # pixels, the longest side; 1000 thumbnails give a sheet of 2048 pixels, and browsers show 8192
TENSORS, METADATA, SPRITE = "embeddings.tsv", "metadata.tsv", "sprite.png"


def write_embeddings(folder, scorer, test: tf.data.Dataset, test_scores, threshold: float) -> None:
    """Write the embeddings of test images and all that the projector shows of them.

    Args:
      folder: that of an event file, or the projector does not find them.
      scorer: the fitted `SelfEnsembleScorer`; without a network, the points are descriptors of the texture.
      test: the test stream, which is read once more.
      test_scores: its `scored_test.TestScores`.
      threshold: the score above which an image counts as an anomaly.

    Raises:
      OSError, tf.errors.OpError: a file cannot be written, or an image can no longer be read.
    """
    stride = math.ceil(len(test_scores.scores) / POINTS)
    side = min(THUMBNAIL, scorer.image_size)

    def embed(images):
        return {"embedding": scorer.embed(images, 1)[:, 0], "thumbnail": views.prepare(images, side)}

    found = scorer.map_images("embed_and_shrink", embed, test.shard(stride, 0), "Embedding")
    folder = pathlib.Path(folder)
    with atomic_file(folder / TENSORS) as file:
        np.savetxt(file, principal_components(found["embedding"]), fmt="%.5g", delimiter="\t")
    with atomic_file(folder / METADATA, newline="", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in metadata(test_scores, slice(None, None, stride), threshold))
    with atomic_file(folder / SPRITE, "wb") as file:
        Image.fromarray(sprite(found["thumbnail"])).save(file, "png")
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name, embedding.tensor_path, embedding.metadata_path = "test images", TENSORS, METADATA
    embedding.sprite.image_path = SPRITE
    embedding.sprite.single_image_dim.extend([side, side])
    projector.visualize_embeddings(str(folder), config)


def principal_components(embeddings) -> np.ndarray:
    """Return the first `DIMENSIONS` principal components of embeddings [n, d]; fewer dimensions stay as they are."""
    count = min(DIMENSIONS, len(embeddings))
    if embeddings.shape[1] <= count or count < 2:
        return embeddings
    return PCA(count, svd_solver="randomized", random_state=0).fit_transform(embeddings)


def metadata(test_scores, chosen: slice, threshold: float) -> list[tuple[str, ...]]:
    """Return the heading and a row per point: class, kind, score, verdict, and the name of the image.

    Args:
      test_scores: a `scored_test.TestScores`.
      chosen: which images are points.
      threshold: the score above which an image counts as an anomaly.
    """
    columns = test_scores.labels, test_scores.is_anomaly, test_scores.scores, test_scores.names
    rows: list[tuple[str, ...]] = [("label", "kind", "score", "verdict", "image")]
    for label, is_anomaly, score, name in zip(*(column[chosen] for column in columns), strict=True):
        kind, verdict = "anomaly" if is_anomaly else "normal", "flagged" if score > threshold else "passed"
        # Neither tabs nor line ends are printable, and the projector knows no quotes.
        rows.append((printable(str(label)), kind, f"{score:.6g}", verdict, printable(str(name))))
    return rows


def sprite(thumbnails) -> np.ndarray:
    """Return a square sheet of thumbnails, row by row.

    Args:
      thumbnails: uint8 [n, s, s, 3].

    Returns:
      uint8 [k s, k s, 3], where k is the smallest number with k^2 >= n; black where there is no thumbnail.
    """
    count, side = thumbnails.shape[:2]
    columns = math.ceil(math.sqrt(count))
    cells = np.zeros((columns * columns, side, side, 3), np.uint8)
    cells[:count] = thumbnails
    grid = cells.reshape(columns, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(columns * side, columns * side, 3)
