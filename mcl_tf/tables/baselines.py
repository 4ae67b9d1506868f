"""Simple methods of scikit-learn on simple features, beside which a table shows what training brings.

| method | score |
|---|---|
| knn | mean distance to the five nearest training images |
| ocsvm | one-class SVM with an RBF kernel |
| iforest | isolation forest |

Each of them sees the pixels at 32x32, and the embedding of the encoder before its training, both standardized.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from mcl_tf import evaluation
from mcl_tf.config import Config
from mcl_tf.data import arrays
from mcl_tf.data.room import Room
from mcl_tf.data.sources import load_source
from mcl_tf.data.tasks import Task, build_task
from mcl_tf.scorer import make_scorer
from mcl_tf.training.trainer import build_model
from mcl_tf.utils.console import tracked

NEIGHBOURS = 5
_SIDE = 32  # pixels


def aurocs(config: Config, load=load_source) -> dict[str, float]:
    """Measure all methods on the images of a run.

    Args:
      config: the configuration of the run.
      load: opens a dataset, see `load_source`.

    Returns:
      {"<method>_<features>": AUROC}, with the methods knn, ocsvm, iforest and the features pixels, embedding.

    Raises:
      UsageError: see `build_task`.
    """
    task = build_task(config.data, config.run.data_dir, tracked, config.scoring.score, load, Room(config.run))
    images, is_anomaly = (np.array(part) for part in zip(*_test_images(task), strict=True))
    found = {}
    for name, features in (("pixels", _pixels), ("embedding", _embedding(config, task))):
        train, test = standardized(features(task.train), features(images))
        for method, score in _METHODS.items():
            metrics = evaluation.compute_metrics(is_anomaly, score(train, test, config.data.seed))
            found[f"{method}_{name}"] = metrics["auroc"]
    return found


def standardized(train, test) -> tuple[np.ndarray, np.ndarray]:
    """Return features [n, d] and [m, d] in units of the standard deviations of the training features."""
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    return (train - mean) / deviation, (test - mean) / deviation


def nearest_neighbours(train, test, seed: int = 0) -> np.ndarray:
    """Return the mean distance of test features [m, d] to the `NEIGHBOURS` nearest of the training features [n, d].

    Args:
      train: float [n, d].
      test: float [m, d].
      seed: ignored; nothing is drawn.
    """
    del seed
    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train)
    return neighbours.kneighbors(test)[0].mean(1)


def _one_class_svm(train, test, seed: int) -> np.ndarray:
    del seed
    return -OneClassSVM().fit(train).score_samples(test)


def _isolation_forest(train, test, seed: int) -> np.ndarray:
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


_METHODS = {"knn": nearest_neighbours, "ocsvm": _one_class_svm, "iforest": _isolation_forest}


def _test_images(task: Task):
    for image, is_anomaly, *_ in task.test.as_numpy_iterator() if task.test is not None else ():
        yield image, is_anomaly


def _pixels(images) -> np.ndarray:
    return arrays.resize(images, _SIDE).reshape(len(images), -1) / np.float32(255.0)


def _embedding(config: Config, task: Task):
    """Return a function from images to the embeddings float32 [n, D] of the untrained encoder."""
    scorer = make_scorer(build_model(config, task.image_size), config.replace(score="image"), len(task.class_names))
    embed = scorer.traced("embed", lambda batch: scorer.embed(batch, 1)[:, 0])

    def embeddings(images):
        batches = arrays.scoring_batches(images, scorer.images_per_batch(1), scorer.image_size, scorer.resize)
        return np.concatenate([embed(batch).numpy() for batch in batches])

    return embeddings
