"""Explains scores: the distances of every view, and where an image differs from normal ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf import heat_maps, views
from mcl_tf.data import arrays
from mcl_tf.scorer import SelfEnsembleScorer


def explain(scorer: SelfEnsembleScorer, images) -> dict[str, Any]:
    """Return the parts of a score for one batch, also in a graph.

    Args:
      scorer: a fitted scorer.
      images: uint8 [n, h, w, c], of any size.

    Returns:
      A dictionary of
        distances: float32 [n, V, C], Mahalanobis distance of every view to every class;
        rotation: int32 [n, V], number of quarter turns counter-clockwise of every view;
        flipped: bool [n, V], whether the view was flipped left-right before it was turned;
        heat_map: float32 [n, h, w], see `heat_map`.
    """
    sides, images, count = tf.shape(images)[1:3], scorer.prepare(images), scorer.view_count
    distances, maps = (_influence if scorer.texture is None else _local)(scorer, images)
    shape = tf.shape(distances)[:2]
    return {
        "distances": distances,
        "rotation": tf.broadcast_to(tf.constant(views.view_rotations(count)), shape),
        "flipped": tf.broadcast_to(tf.constant(views.view_flips(count)), shape),
        "heat_map": heat_maps.at_own_size(maps, sides, scorer.resize),
    }


def explain_images(
    scorer: SelfEnsembleScorer, images, description: str = "Explaining", visible: bool = True
) -> dict[str, Any]:
    """Return the parts of the scores of any number of images, see `explain`.

    Args:
      scorer: a fitted scorer.
      images: see `arrays.as_source`.
      description: what is done, for the progress bar.
      visible: whether to show it on a terminal.

    Returns:
      {name: array}; `heat_map` is a list of float32 [h, w] unless the images are an array.
    """
    source = arrays.as_source(images)
    one = lambda batch: explain(scorer, batch)  # noqa: E731
    outputs: dict[str, Any] = scorer.map_images("explain", one, source, description, visible)
    sides = arrays.sides(source)
    maps: Any = [
        heat_maps.at_own_size(tf.constant(map_[None]), own, scorer.resize)[0].numpy()
        for map_, own in zip(outputs["heat_map"], sides, strict=True)
    ]
    if isinstance(source, np.ndarray):
        maps = np.array(maps, np.float32).reshape(source.shape[:3])
    return {**outputs, "heat_map": maps}


def heat_map(scorer: SelfEnsembleScorer, images):
    """Show where images differ from normal ones.

    Args:
      scorer: a fitted scorer.
      images: uint8 [n, h, w, c], of any size.

    Returns:
      float32 [n, h, w], higher for more anomalous places. With a local score, it is in standard deviations of normal
      images; with features of places, it is the mean of their map and of that of the texture. Without a local score, it
      is the influence of places on the self-ensemble of distances, in standard deviations over the places of the image.
    """
    return explain(scorer, images)["heat_map"]


def _influence(scorer, images):
    """Return the distances of images uint8 [n, s, s, 3], and the influence of their places on the self-ensemble.

    Returns:
      float32 [n, V, C] and float32 [n, s, s].
    """
    images, length = views.without_empty_batch(views.prepare(images, scorer.network_size))
    pixels = views.to_float(images)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        distances = scorer.gaussians.distances(scorer.embed_floats(pixels, scorer.view_count)[0], scorer.rotations)
        score, _ = scorer.self_ensemble(distances)
    return distances[:length], heat_maps.from_gradient(tape.gradient(score, pixels))[:length]


def _local(scorer, images):
    """Return the distances of images uint8 [n, s, s, 3], and the map of their local score, see `_influence`."""
    heat = scorer.texture.heat_map(images)
    if scorer.patches is None:
        return scorer.distances(images), heat
    embeddings, features = scorer.embed_views(images, scorer.view_count)
    center, spread = tf.unstack(tf.convert_to_tensor(scorer.standardization)[scorer.part_names.index("places")])
    places = (scorer.place_distances(features)[..., None] - center) / spread
    places = tf.image.resize(places, heat.shape[1:3])[..., 0]
    return scorer.gaussians.distances(embeddings, scorer.rotations), 0.5 * (heat + places)
