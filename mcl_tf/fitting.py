"""Fits a scorer to normal images: its Gaussians, and the units of the parts of its score."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import tensorflow as tf
import threadpoolctl

from mcl_tf import calibration, units, views
from mcl_tf.errors import UsageError
from mcl_tf.gaussians import ClassConditionalGaussians
from mcl_tf.normal_images import NormalImages
from mcl_tf.patches import PatchMoments
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.utils import parallel
from mcl_tf.utils.console import tracked

_FEW = 5  # held-out images below which training images give the units
_TOO_MANY = 0.5  # share of new normal images; if so many are flagged, the old embedding does not fit them
_logger = logging.getLogger(__name__)


def fit_scorer(scorer: SelfEnsembleScorer, normal: NormalImages, pass_rate: float, visible: bool) -> np.ndarray:
    """Fit a scorer to normal images, with its threshold.

    Args:
      scorer: the scorer, whose weights change.
      normal: the images.
      pass_rate: the share of new normal images that should not be flagged.
      visible: whether to show progress bars on a terminal.

    Returns:
      float32 [m], the scores of the held-out images.

    Raises:
      UsageError: all held-out images have the same score.
    """
    fit_gaussians(scorer, normal.trained, normal.labels, visible)
    fit_units(scorer, normal.calibrating, normal.trained)
    scores = scorer.scores(normal.calibrating, visible)
    _check_spread(scores)
    scorer.threshold.assign(calibration.threshold_at(scores, pass_rate))
    _warn_of_few(len(scores), pass_rate)
    return scores


def update(detector, images, labels, visible: bool):
    """Fit a detector's scorer to other normal images, see `AnomalyDetector.update`."""
    scorer, config = detector.scorer_, detector.fitted_config_
    sizes = {"image_size": scorer.network_size, "detail_size": scorer.image_size}
    normal = NormalImages.collect(images, labels, detector.class_names_, config.replace(run_dir="", **sizes))
    before = scorer.state()
    flagged = float(np.mean(scorer.scores(normal.trained, visible) > scorer.threshold.numpy()))
    try:
        scores = fit_scorer(scorer, normal, config.scoring.pass_rate, visible)
    except BaseException:
        scorer.set_state(before)
        raise
    message = "The old threshold flagged %.1f %% of the new normal images, and promised at most %.1f %%"
    promised = 100.0 * detector.promised_rate_
    if flagged > _TOO_MANY:
        _logger.warning(message + ". The network should be trained anew.", 100.0 * flagged, promised)
    else:
        _logger.info(message, 100.0 * flagged, promised)
    detector.calibration_scores_ = scores
    return detector


def fit_gaussians(scorer: SelfEnsembleScorer, images, labels, visible: bool = True) -> None:
    """Fit all Gaussians of a scorer, those of texture and places, too, to training images, batch by batch.

    Args:
      scorer: the scorer, whose weights change.
      images: uint8 [n, s, s, 3], array at the stored size.
      labels: int [n], 0 to C - 1.
      visible: whether to show a progress bar on a terminal.

    Raises:
      UsageError: see `ClassConditionalGaussians.fit`.
    """
    settings: Any = {"num_classes": scorer.num_classes, "shrinkage": scorer.config.shrinkage}
    if scorer.texture is not None:
        batches = _described(scorer, images, labels)
        fitted = ClassConditionalGaussians.fit_batches(batches, num_rotations=1, **settings)
        scorer.texture_means.assign(fitted.means)
        scorer.texture_whitenings.assign(fitted.whitenings)
    if scorer.network is None:
        return
    moments = scorer.patches.moments() if scorer.patches is not None else None
    batches = _embedded(scorer, images, labels, moments, visible)
    fitted = ClassConditionalGaussians.fit_batches(batches, num_rotations=scorer.means.shape[0], **settings)
    scorer.means.assign(fitted.means)
    scorer.whitenings.assign(fitted.whitenings)
    if moments is not None:
        scorer.patches.fit(moments)


def _described(scorer, images, labels):
    """Fit the texture and yield (descriptors [m, D], labels [m], rotations [m]) of all images, batch by batch."""
    start = 0
    for vectors in scorer.texture.fit(images):
        yield vectors, labels[start : start + len(vectors)], np.zeros(len(vectors), int)
        start += len(vectors)


def _embedded(scorer, images, labels, moments: PatchMoments | None, visible: bool):
    """Yield (embeddings [m, D], labels [m], rotations [m]) of all views of the images, batch by batch.

    The features of the places are added to `moments` on the way.
    """
    count = 8 if scorer.knows_rotations else 2
    rotations = np.array(views.view_rotations(count))
    embed = scorer.traced("embed", lambda batch: scorer.embed_views(batch, count))
    size = scorer.images_per_batch(count)
    starts = range(0, len(images), size)
    results = parallel.map_in_order(lambda start: embed(tf.constant(images[start : start + size])), starts)
    # NumPy's idle threads spin and would keep the cores from the network.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        shown = tracked(results, "Fitting Gaussians", len(starts), visible)
        for start, (batch, features) in zip(starts, shown, strict=True):
            if moments is not None:
                moments.update(*scorer.upright(features, count))
            repeated = np.repeat(labels[start : start + size], count)
            yield batch.numpy().reshape(-1, batch.shape[-1]), repeated, np.tile(rotations, len(batch))


def fit_units(scorer: SelfEnsembleScorer, held_out, images) -> None:
    """Measure center and spread of the parts of a score, if it consists of several.

    Args:
      scorer: the scorer, whose weights change.
      held_out: uint8 [m, s, s, 3], normal images that were not trained on.
      images: uint8 [n, s, s, 3], training images; they are used if there are too few others.
    """
    if not scorer.is_scaled:
        return
    normal = held_out if len(held_out) >= _FEW else images[:200]
    compute = scorer.traced("parts", lambda batch: scorer.measure_parts(batch)[2])
    size = scorer.images_per_batch(scorer.view_count)
    batches = (tf.constant(normal[start : start + size]) for start in range(0, len(normal), size))
    results = [compute(batch) for batch in batches]
    measured = units.measure({name: np.concatenate([result[name] for result in results]) for name in results[0]})
    scorer.standardization.assign([measured.get(name, (0.0, 1.0)) for name in scorer.part_names])


def _check_spread(scores) -> None:
    """Refuse a detector that cannot tell normal images from each other."""
    if len(scores) > 1 and np.ptp(scores) <= 1e-6 * np.max(np.abs(scores)):
        raise UsageError(
            f"All {len(scores)} held-out normal images have the same score ({scores[0]:.6g}), so that there is no "
            "detector. The images must differ from each other"
        )


def _warn_of_few(count: int, pass_rate: float) -> None:
    """Log a warning if the held-out images are too few for the pass rate."""
    if count < calibration.images_needed(pass_rate) and pass_rate < 1.0:
        _logger.warning(
            "%d held-out normal images promise that at most %.1f %% of new normal images are flagged, not %.1f %%, "
            "which takes %d held-out images. Train with more normal images, or set a smaller pass_rate.",
            count,
            100.0 * calibration.promised_rate(count, pass_rate),
            100.0 * (1.0 - pass_rate),
            calibration.images_needed(pass_rate),
        )
