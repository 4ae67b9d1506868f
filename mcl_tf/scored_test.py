"""The scores of the test split, and what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

from mcl_tf import evaluation
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.scoring import ensembles, self_ensemble

MONITORED = 1000  # number of images, of training and test each, behind the AUROC that is shown during training


@dataclasses.dataclass(frozen=True)
class TestScores:
    """The scores of the test split.

    Attributes:
      names: strings [n].
      labels: strings [n], class names.
      is_anomaly: bool [n].
      one_view: float32 [n], scores with one view.
      scores: float32 [n], scores with self-ensemble inference.
      nearest_classes: int32 [n], the normal class with the smallest distance; None if it is unknown.
      distances: float32 [n, V, C], those of every view to every class; None if they are unknown.
    """

    names: np.ndarray
    labels: np.ndarray
    is_anomaly: np.ndarray
    one_view: np.ndarray
    scores: np.ndarray
    nearest_classes: np.ndarray | None = None
    distances: np.ndarray | None = None

    def by_class(self) -> list[dict]:
        """Return the AUROC of every anomalous class, see `evaluation.class_metrics`; none if there are no anomalies."""
        return evaluation.class_metrics(self.is_anomaly, self.labels, self.scores) if self.is_anomaly.any() else []

    def metrics(self) -> dict[str, dict[str, float]]:
        """Return the metrics with one view and with self-ensemble inference; none if there are no anomalies."""
        if not self.is_anomaly.any():
            return {}
        return {
            "one_view": evaluation.compute_metrics(self.is_anomaly, self.one_view),
            "self_ensemble": evaluation.compute_metrics(self.is_anomaly, self.scores),
        }

    def ensembles(self) -> dict[str, dict[str, float]]:
        """Return {number of views: {method: AUROC}} of the distances alone, see `scoring.ensembles`."""
        found: dict[str, dict[str, float]] = {}
        if self.distances is not None and self.is_anomaly.any():
            for (count, method), scores in ensembles(self.distances).items():
                found.setdefault(str(count), {})[method] = float(roc_auc_score(self.is_anomaly, scores))
        return found


def sample_test(test: tf.data.Dataset) -> tf.data.Dataset:
    """Return about a thousand images, evenly spread over the test split; they are watched and influence nothing."""
    stride = max(1, sum(1 for _ in test.map(lambda image, *_: 0)) // MONITORED)
    return test.shard(stride, 0)


def score_test(scorer: SelfEnsembleScorer, test: tf.data.Dataset) -> TestScores:
    """Score a test stream, see `Task`, in one pass over the images."""
    outputs = scorer.evaluate_images(test)
    rest = test.map(lambda image, *others: others).batch(1024).as_numpy_iterator()
    is_anomaly, names, labels = (np.concatenate(part) for part in zip(*rest, strict=True))
    one_view, _ = self_ensemble(outputs["distances"][:, :1], scorer.config.method)
    return TestScores(
        names=np.char.decode(names.astype(bytes)),
        labels=np.char.decode(labels.astype(bytes)),
        is_anomaly=is_anomaly,
        one_view=one_view.numpy(),
        scores=outputs["score"],
        nearest_classes=outputs["nearest_class"],
        distances=None if scorer.network is None else outputs["distances"],
    )
