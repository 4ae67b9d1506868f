"""The library's front door: an anomaly detector that learns from normal pictures.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021 (arXiv:2105.08793).
"""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf
import threadpoolctl

from mcl_tf import networks, views
from mcl_tf.config import Config
from mcl_tf.data import arrays
from mcl_tf.errors import UsageError, one_line
from mcl_tf.gaussians import GaussianFitter
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.scoring import self_ensemble, threshold_at
from mcl_tf.training.trainer import Trainer
from mcl_tf.utils import parallel
from mcl_tf.utils.console import tracked

_CONFIG, _WEIGHTS = "config.json", "weights.npz"


class AnomalyDetector:
    """Scores how little a picture looks like the normal ones; higher is more abnormal, everywhere.

    >>> detector = AnomalyDetector(encoder="small", epochs=20).fit(normal_pictures)
    >>> scores = detector.decision_function(pictures)
    >>> detector.save("detector"); AnomalyDetector.load("detector").predict(pictures)

    Pictures are a uint8 array [n, h, w, c] with c = 1, 3 or 4, or a `tf.data.Dataset` of such pictures, batched
    or single, alone or with labels.

    Args:
      config: a `Config`; its defaults if None.
      **overrides: single options by name, e.g. `encoder="small"`, `epochs=20`.

    Attributes:
      config: the configuration.
      threshold_: score above which a picture counts as an anomaly.
      calibration_scores_: float32 [m], scores of the normal pictures held out from training.
      class_names_: names of the classes that the detector tells apart.
      scorer_: the `SelfEnsembleScorer` behind it.

    Raises:
      UsageError: an unknown option or a value out of range.
    """

    def __init__(self, config: Config | None = None, **overrides: Any):
        self.config = (config or Config()).replace(**overrides)
        self.class_names_: tuple[str, ...] = ()
        self.calibration_scores_ = np.zeros(0, np.float32)
        self.scorer_: SelfEnsembleScorer | None = None
        self._compiled: dict[str, Any] = {}

    @property
    def threshold_(self) -> float:
        return float(self._fitted().threshold)

    def fit(self, images, labels=None, *, class_names=None, callbacks=None) -> AnomalyDetector:
        """Trains on normal pictures, fits the Gaussians and sets the threshold.

        A seeded share of the pictures (`calibration_fraction`) is held out from training and sets the threshold.
        With `run_dir` in the configuration, checkpoints are kept there and training goes on from the newest.

        Args:
          images: normal pictures; they are held in memory, as uint8 at the network's size.
          labels: int [n], classes 0 to C - 1, for labelled training; None for one class. A dataset brings its
            own as the second part of its elements.
          class_names: names of the classes; their numbers by default.
          callbacks: a function `Trainer -> list of Keras callbacks`.

        Returns:
          The detector.
        """
        pictures, labels = arrays.collect(images, labels, self.config.data.image_size)
        labels = np.zeros(len(pictures), np.int32) if labels is None else labels
        self.class_names_ = _check_classes(labels, class_names)
        labels = labels.astype(np.int32)
        count = len(self.class_names_)
        config = self.config = self.config.replace(labelled=count > 1)
        held_out = arrays.hold_out(labels, config.data)

        trainer = Trainer(config, pictures[~held_out], labels[~held_out], config.run.run_dir or None)
        scorer = make_scorer(trainer.model, config, count)
        self._set_scorer(scorer)
        try:
            trainer.fit(callbacks(trainer) if callbacks else ())
            self.fit_gaussians(pictures[~held_out], labels[~held_out])
            self.calibration_scores_ = self.decision_function(pictures[held_out])
            threshold = threshold_at(self.calibration_scores_, config.scoring.pass_rate)
            scorer.threshold.assign(threshold)
        except BaseException:
            self._set_scorer(None)  # half a detector would score nonsense
            raise
        return self

    def fit_gaussians(self, pictures, labels) -> None:
        """Fits the Gaussians to the embeddings of pictures uint8 [n, s, s, 3] with labels int [n], in batches."""
        scorer = self._fitted()
        embed = self._function("embed", lambda batch: scorer.embed(batch, 8))
        rotations = np.array(views.view_rotations(8))
        fitter = GaussianFitter(scorer.means.shape[1])
        size = parallel.share(self.config.scoring.scoring_batch_size)
        starts = range(0, len(pictures), size)
        found = parallel.in_order(lambda start: embed(tf.constant(pictures[start : start + size])).numpy(), starts)
        # NumPy's threads wait for more work by spinning, and would keep the cores from the network.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            for start, embeddings in zip(starts, tracked(found, "Fitting Gaussians", len(starts)), strict=True):
                repeated = np.repeat(labels[start : start + size], 8)
                flat = embeddings.reshape(-1, embeddings.shape[-1])
                fitter.update(flat, repeated, np.tile(rotations, len(embeddings)))
        scorer.set_gaussians(fitter.gaussians(self.config.scoring.shrinkage))

    def distances(self, images) -> np.ndarray:
        """Mahalanobis distances of every view to every class: float32 [n, V, C]."""
        scorer = self._fitted()
        score_batch = self._function("distances", scorer.distances)
        size = parallel.share(self.config.scoring.scoring_batch_size)
        batches = arrays.scoring_batches(images, size, scorer.image_size)
        found = list(tracked(parallel.in_order(lambda batch: score_batch(batch).numpy(), batches), "Scoring"))
        shape = (0, self.config.scoring.views, scorer.means.shape[1])
        return np.concatenate(found) if found else np.zeros(shape, np.float32)

    def decision_function(self, images) -> np.ndarray:
        """Anomaly scores float32 [n]; higher is more abnormal."""
        return self_ensemble(self.distances(images), self.config.scoring.method)[0].numpy()

    def predict(self, images) -> np.ndarray:
        """int32 [n]: 1 for an anomaly (score above the threshold), 0 for a normal picture."""
        return (self.decision_function(images) > self.threshold_).astype(np.int32)

    def save(self, path) -> None:
        """Writes the detector to a folder: its configuration as JSON, its weights as arrays of NumPy."""
        scorer = self._fitted()
        path = pathlib.Path(path)
        facts = {
            "config": json.loads(self.config.to_json()),
            "image_size": scorer.image_size,
            "class_names": self.class_names_,
            "calibration_scores": [float(score) for score in self.calibration_scores_],
        }
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Both under other names first: a save that fails leaves an older detector whole.
            np.savez(path / ("new." + _WEIGHTS), **scorer.arrays())
            (path / ("new." + _CONFIG)).write_text(json.dumps(facts, indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"The detector cannot be saved in {path}: {error}") from None
        for name in (_WEIGHTS, _CONFIG):
            os.replace(path / ("new." + name), path / name)

    @classmethod
    def load(cls, path) -> AnomalyDetector:
        """Reads what `save` wrote; nothing in it is executed.

        Raises:
          UsageError: the folder holds no detector.
        """
        path = pathlib.Path(path)
        try:
            facts = json.loads((path / _CONFIG).read_text())
            detector = cls(Config.from_json(json.dumps(facts["config"])))
            size, names = facts["image_size"], facts["class_names"]
            detector.class_names_ = tuple(str(name) for name in names)
            detector.calibration_scores_ = np.array(facts["calibration_scores"], np.float32)
            if not (isinstance(size, int) and size > 0 and isinstance(names, list) and names):
                raise UsageError("image_size or class_names is not what save writes")
            if detector.calibration_scores_.ndim != 1:
                raise UsageError("calibration_scores is no list of numbers")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"There is no detector in {path}, which `save` would have written: {error}") from None
        config = detector.config
        encoder = networks.build_encoder(config.model, size)
        head = networks.build_projection_head(config.model, encoder.output_shape[-1])
        network = _embedding_network(encoder, head, config)
        scorer = SelfEnsembleScorer(network, config.scoring, len(names))
        try:
            with np.load(path / _WEIGHTS, allow_pickle=False) as arrays:
                scorer.set_arrays(dict(arrays))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise UsageError(f"The weights in {path / _WEIGHTS} do not fit: {one_line(error, 300)}") from None
        detector._set_scorer(scorer)
        return detector

    def export(self, path, *, new_version: bool = False, figures: dict | None = None) -> str:
        """Writes a SavedModel for TF Serving; see `mcl_tf.export.export_saved_model` for its signatures.

        Args:
          path: the SavedModel's folder; what is there is replaced.
          new_version: take `path` as a folder of versions instead: the next one is added, and the oldest beyond
            `keep_versions` removed.
          figures: what a test split said, for the model card.

        Returns:
          The SavedModel's path, absolute.
        """
        from mcl_tf.export import float16_weights, model_card, saved_model, signatures

        scorer, config = self._fitted(), self.config.serving
        facts = (self.calibration_scores_, self.class_names_)
        sheet = model_card.make_card(self.config, scorer, *facts, config.export_precision, figures)
        if config.export_precision == "float16":
            scorer = scorer.with_network(float16_weights.half_precision(scorer.network))
        served = signatures.ServedScorer(scorer, *facts)
        return saved_model.export_saved_model(
            served,
            path,
            card=sheet,
            batch_sizes=config.serving_batch_sizes,
            new_version=new_version,
            keep=config.keep_versions,
        )

    def _fitted(self) -> SelfEnsembleScorer:
        if self.scorer_ is None:
            raise UsageError("This detector knows no normal pictures yet; call fit or load first")
        return self.scorer_

    def _set_scorer(self, scorer) -> None:
        self.scorer_, self._compiled = scorer, {}

    def _function(self, name, function):
        """A function of the scorer in a graph, traced once as long as the scorer stays."""
        if name not in self._compiled:
            self._compiled[name] = tf.function(function, reduce_retracing=True)
        return self._compiled[name]


def _check_classes(labels, class_names) -> tuple[str, ...]:
    """The names of the classes 0 to C - 1, which must all be there."""
    found = np.unique(labels)
    if not np.array_equal(found, np.arange(len(found))):
        raise UsageError(f"Labels must be 0 to C - 1 with pictures of every class. Received: {found.tolist()}")
    names = tuple(str(name) for name in (found if class_names is None else class_names))
    if len(names) != len(found):
        raise UsageError(f"{len(found)} classes need as many names. Received: {', '.join(names)}")
    return names


def make_scorer(model, config: Config, num_classes: int) -> SelfEnsembleScorer:
    """A scorer that shares the weights of a model in training."""
    network = _embedding_network(model.encoder, model.projection_head, config)
    return SelfEnsembleScorer(network, config.scoring, num_classes)


def _embedding_network(encoder, head, config: Config):
    if config.scoring.embedding == "encoder":
        return encoder
    return tf.keras.Model(encoder.inputs[0], head(encoder.outputs[0]), name="embedding")
