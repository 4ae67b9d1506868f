"""How well heat maps show where anomalies are, by masks of the anomalous pixels.

Reference: Bergmann et al., "The MVTec Anomaly Detection Dataset", International Journal of Computer Vision 129 (2021),
section 5.1 (per-region overlap).
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from scipy import ndimage
from sklearn import metrics

from mcl_tf.data import masks as mask_files
from mcl_tf.errors import UsageError
from mcl_tf.explanation import explain_images
from mcl_tf.scorer import SelfEnsembleScorer

FALSE_POSITIVES = 0.3  # the false-positive rate up to which the overlap counts
_MAX_PIXELS = 2**26  # of all maps, which take 256 MB


def localize(scorer: SelfEnsembleScorer, test: tf.data.Dataset, masks: dict[str, str]) -> dict[str, float]:
    """Compare the heat maps of a test split with masks.

    Args:
      scorer: a fitted scorer.
      test: the test split, see `tasks.Task`.
      masks: {name of an anomalous image: path of its mask}. Normal images have no anomalous pixel; anomalies without a
        mask are left out. If there are very many images, every second, third, ... of them counts.

    Returns:
      `localization_metrics`, at the size that images are stored with, and `images`, their number.

    Raises:
      UsageError: a mask cannot be read, or none has anomalous pixels.
    """
    names = [name.decode() for _, _, name, _ in test.as_numpy_iterator()]
    stride = max(1, len(names) * scorer.image_size**2 // _MAX_PIXELS)
    images, truths = [], []
    for image, is_anomaly, name, _ in test.shard(stride, 0).as_numpy_iterator():
        path = masks.get(name.decode())
        if is_anomaly and path is None:
            continue
        images.append(image)
        truth = (
            mask_files.read_mask(path, scorer.image_size, scorer.resize) if path else np.zeros(image.shape[:2], bool)
        )
        truths.append(truth)
    maps = explain_images(scorer, np.array(images), "Locating")["heat_map"]
    return {**localization_metrics(maps, np.array(truths)), "images": len(images)}


def localization_metrics(maps, masks) -> dict[str, float]:
    """Compare heat maps with masks.

    Args:
      maps: float [n, h, w], higher for more anomalous places.
      masks: bool [n, h, w], true for anomalous pixels.

    Returns:
      `pixel_auroc`, the AUROC of all pixels, and `aupro`, the per-region overlap, averaged over the false-positive
      rates of pixels from 0 to 0.3. A map without information has 0.5 and 0.15.

    Raises:
      UsageError: the masks have no anomalous pixel, or no other.
    """
    maps, masks = np.asarray(maps, np.float32), np.asarray(masks, bool)
    if masks.all() or not masks.any():
        raise UsageError(f"Masks need anomalous and normal pixels. Received: {masks.sum()} anomalous of {masks.size}")
    return {"pixel_auroc": float(metrics.roc_auc_score(masks.ravel(), maps.ravel())), "aupro": _overlap(maps, masks)}


def _overlap(maps, masks) -> float:
    """Return the mean over the false-positive rates up to the limit of the overlap, averaged over all regions."""
    weights = _region_weights(masks).ravel()
    order = np.argsort(-maps.ravel(), kind="stable")
    values, found, false = maps.ravel()[order], np.cumsum(weights[order]), np.cumsum(~masks.ravel()[order])
    last = np.append(values[1:] != values[:-1], True)  # of equal values, all pixels or none are flagged
    rates = np.concatenate([[0.0], false[last] / false[-1]])
    overlaps = np.concatenate([[0.0], found[last]])
    within = rates <= FALSE_POSITIVES
    at_limit = np.interp(FALSE_POSITIVES, rates, overlaps)
    area = metrics.auc(np.append(rates[within], FALSE_POSITIVES), np.append(overlaps[within], at_limit))
    return float(area / FALSE_POSITIVES)


def _region_weights(masks) -> np.ndarray:
    """Return for every pixel its share of the mean overlap: 1 / (pixels of its region x number of regions)."""
    weights, regions = np.zeros(masks.shape), 0
    for mask, own in zip(masks, weights, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel())
        own[mask] = 1.0 / sizes[labels[mask]]
        regions += count
    return weights / regions
