"""The library's front door: an anomaly detector that learns from normal images.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021 (arXiv:2105.08793).
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import zipfile
from typing import Any

import numpy as np

from mcl_tf import calibration, networks
from mcl_tf.config import Config
from mcl_tf.data import arrays
from mcl_tf.embeddings import embedding_network
from mcl_tf.errors import UsageError, one_line
from mcl_tf.scorer import SelfEnsembleScorer
from mcl_tf.training.callbacks import ProgressReport
from mcl_tf.training.precision import dtype_policy
from mcl_tf.training.trainer import Trainer
from mcl_tf.utils.atomic import atomic_folder
from mcl_tf.utils.console import is_terminal

_CONFIG, _WEIGHTS = "config.json", "weights.npz"
_logger = logging.getLogger(__name__)
_LEARNED = ("class_names_", "labelled_", "calibration_scores_", "scorer_")


class AnomalyDetector:
    """Scores how much an image differs from normal images.

    Signs are PyOD's, not scikit-learn's: scores are higher for more anomalous images, and `predict` gives 1 for an
    anomaly.

    >>> detector = AnomalyDetector(encoder="small", epochs=20).fit(normal_images)
    >>> scores = detector.decision_function(images)
    >>> detector.save("detector"); AnomalyDetector.load("detector").predict(images)

    Images are a uint8 array [n, h, w, c] with c = 1, 3 or 4, or a `tf.data.Dataset` of such images, batched or single,
    with or without labels.

    Args:
      config: a `Config`; the defaults if None.
      **overrides: options by name, e.g. `encoder="small"`, `epochs=20`.

    Attributes:
      config: the configuration; `fit` never changes it.
      threshold_: float, the score above which an image counts as an anomaly. This and the following attributes exist
        after `fit` or `load`.
      promised_rate_: float, the largest probability that a new normal image counts as an anomaly.
      calibration_scores_: float32 [m], scores of the normal images held out from training.
      class_names_: tuple of the names of the classes that the detector distinguishes.
      labelled_: bool, whether it was trained with labels.
      scorer_: the `SelfEnsembleScorer` behind it.

    Raises:
      UsageError: an option is unknown or out of its range.
    """

    def __init__(self, config: Config | None = None, **overrides: Any):
        self.config = (config or Config()).replace(**overrides)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all options by name, as scikit-learn's estimators do.

        Args:
          deep: ignored; options are plain values.
        """
        del deep
        return self.config.flat()

    def set_params(self, **params: Any) -> AnomalyDetector:
        """Change options by name for the next `fit` and return the detector.

        Raises:
          UsageError: an option is unknown or out of its range.
        """
        self.config = self.config.replace(**params)
        return self

    @property
    def threshold_(self) -> float:
        """The score above which an image counts as an anomaly."""
        if not hasattr(self, "scorer_"):
            raise AttributeError("threshold_ exists after fit or load")
        return float(self.scorer_.threshold)

    @property
    def promised_rate_(self) -> float:
        """The largest probability that a new normal image counts as an anomaly, with the threshold set by `fit`."""
        if not hasattr(self, "calibration_scores_"):
            raise AttributeError("promised_rate_ exists after fit or load")
        return calibration.promised_rate(len(self.calibration_scores_), self.config.scoring.pass_rate)

    def fit(self, images, labels=None, *, class_names=None, callbacks=(), verbose="auto") -> AnomalyDetector:
        """Train on normal images, fit the Gaussians and set the threshold.

        A seeded share of the images is held out from training and sets the threshold: `calibration_fraction`, or as
        many as `pass_rate` needs (19 for 0.95), but no more than half. With `run_dir`, checkpoints are kept there and
        training resumes from the newest one.

        Args:
          images: normal images; they are held in memory, as uint8 at the network's size.
          labels: int [n], classes 0 to C - 1, for labelled training; None for one class. A dataset has labels as second
            part of its elements.
          class_names: names of the classes; their numbers by default.
          callbacks: Keras callbacks. `self.model` is the `MaskedContrastiveModel` in training; `self.params` has
            `epochs`, `steps` (per epoch) and `batch_size`.
          verbose: 1 shows progress, 0 does not, "auto" shows it on a terminal.

        Returns:
          The detector.

        Raises:
          UsageError: the images or labels are not usable, or training diverged.
          TrainingInterrupted: a signal stopped the training.
        """
        for name in _LEARNED:
            self.__dict__.pop(name, None)
        images, labels = arrays.collect(images, labels, self.config.data.image_size)
        labels = np.zeros(len(images), np.int32) if labels is None else labels.astype(np.int32)
        class_names = _check_classes(labels, class_names)
        config = self.config.replace(labelled=len(class_names) > 1)
        held_out = select_held_out(labels, config)

        epochs = 0 if config.model.freeze_encoder else config.training.epochs
        run_dir = config.run.run_dir or None
        trainer = Trainer(config.replace(epochs=epochs), images[~held_out], labels[~held_out], run_dir)
        visible = bool(is_terminal() if verbose == "auto" else verbose)
        model = trainer.fit([*callbacks, ProgressReport()] if visible else callbacks)
        scorer = make_scorer(model, config, len(class_names))
        scorer.fit_gaussians(images[~held_out], labels[~held_out], visible)
        calibration_scores = scorer.scores(images[held_out], visible)
        scorer.threshold.assign(calibration.threshold_at(calibration_scores, config.scoring.pass_rate))
        _warn_of_few(len(calibration_scores), config.scoring.pass_rate)

        self.class_names_, self.labelled_ = class_names, config.data.labelled
        self.calibration_scores_, self.scorer_ = calibration_scores, scorer
        return self

    def distances(self, images) -> np.ndarray:
        """Return the Mahalanobis distances of every view to every class, float32 [n, V, C]."""
        return self._fitted().evaluate_images(images)["distances"]

    def decision_function(self, images) -> np.ndarray:
        """Return the anomaly scores float32 [n], higher for more anomalous images."""
        return self._fitted().scores(images)

    def predict(self, images) -> np.ndarray:
        """Return int32 [n]: 1 for an anomaly (score above the threshold), 0 for a normal image."""
        return (self.decision_function(images) > self.threshold_).astype(np.int32)

    def threshold(self, images, is_anomaly, target: str = "f1") -> float:
        """Return the threshold that suits labelled examples best; `set_threshold` applies it.

        Args:
          images: images of both kinds.
          is_anomaly: bool or 0/1 [n].
          target: "f1", "youden" or e.g. "fpr=0.01", see `calibration.threshold_for`.

        Raises:
          UsageError: an unknown target, or examples of one kind only.
        """
        return calibration.threshold_for(self.decision_function(images), is_anomaly, target)

    def set_threshold(self, value: float) -> AnomalyDetector:
        """Set the score above which an image counts as an anomaly, and return the detector.

        Args:
          value: a finite number.
        """
        if not np.isfinite(value):
            raise UsageError(f"The threshold must be a finite number. Received: {value}")
        self._fitted().threshold.assign(value)
        return self

    def save(self, path) -> None:
        """Save the detector to a folder atomically: its configuration as JSON, its weights as NumPy arrays.

        Args:
          path: the folder; an older detector is replaced.

        Raises:
          UsageError: the folder holds other files, or cannot be written.
        """
        scorer, path = self._fitted(), pathlib.Path(path).resolve()
        contents = {
            "config": json.loads(self._fitted_config().to_json()),
            "image_size": scorer.image_size,
            "class_names": self.class_names_,
            "calibration_scores": [float(score) for score in self.calibration_scores_],
        }
        try:
            foreign = set(os.listdir(path)) - {_CONFIG, _WEIGHTS} if path.exists() else set()
            if foreign:
                raise UsageError(f"The detector needs a folder of its own. {path} holds {min(foreign)}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_folder(path) as folder:
                np.savez(folder / _WEIGHTS, **scorer.state())
                (folder / _CONFIG).write_text(json.dumps(contents, indent=2) + "\n")
        except OSError as error:
            raise UsageError(f"The detector cannot be saved in {path}: {error}") from None

    @classmethod
    def load(cls, path) -> AnomalyDetector:
        """Load what `save` has written; no code from the folder is executed.

        Args:
          path: the folder.

        Raises:
          UsageError: the folder holds no detector.
        """
        path = pathlib.Path(path)
        try:
            contents = json.loads((path / _CONFIG).read_text())
            detector = cls(Config.from_json(json.dumps(contents["config"])))
            size, names = contents["image_size"], contents["class_names"]
            calibration_scores = np.array(contents["calibration_scores"], np.float32)
            if not (isinstance(size, int) and size > 0 and isinstance(names, list) and names):
                raise UsageError("image_size or class_names is not what save writes")
            if calibration_scores.ndim != 1:
                raise UsageError("calibration_scores is not a list of numbers")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"There is no detector as written by `save` in {path}: {error}") from None
        config = detector.config
        dtype = dtype_policy(config.training.precision)
        encoder = networks.build_encoder(config.model, size, dtype=dtype)
        head = networks.build_projection_head(config.model, encoder.output_shape[-1], dtype=dtype)
        network = embedding_network(encoder, head, config.scoring.embedding)
        scorer = SelfEnsembleScorer(network, config.scoring, len(names), not config.model.freeze_encoder)
        try:
            with np.load(path / _WEIGHTS, allow_pickle=False) as weights:
                scorer.set_state(dict(weights))
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise UsageError(f"The weights in {path / _WEIGHTS} do not fit: {one_line(error, 300)}") from None
        detector.class_names_, detector.labelled_ = tuple(str(name) for name in names), config.data.labelled
        detector.calibration_scores_, detector.scorer_ = calibration_scores, scorer
        return detector

    def export(self, path, *, new_version: bool = False, metrics: dict | None = None) -> str:
        """Write a SavedModel for TensorFlow Serving; `mcl_tf.export.saved_model` describes its signatures.

        Args:
          path: folder of the SavedModel; an older one is replaced.
          new_version: whether `path` is a folder of versions, which gets a new one; the oldest ones beyond
            `keep_versions` are removed.
          metrics: the results on a test split, for the model card.

        Returns:
          The absolute path of the SavedModel.

        Raises:
          UsageError: the path is a file or cannot be written.
        """
        from mcl_tf.export import float16_weights, model_card, saved_model, signatures

        scorer, config = self._fitted(), self.config.serving
        served_with = (self.calibration_scores_, self.class_names_)
        card = model_card.make_card(self._fitted_config(), scorer, *served_with, config.export_precision, metrics)
        if config.export_precision == "float16":
            scorer = scorer.with_network(float16_weights.with_float16_weights(scorer.network))
        return saved_model.export_saved_model(
            signatures.ServedScorer(scorer, *served_with),
            path,
            card=card,
            batch_sizes=config.serving_batch_sizes,
            new_version=new_version,
            keep=config.keep_versions,
        )

    def _fitted(self) -> SelfEnsembleScorer:
        if not hasattr(self, "scorer_"):
            raise UsageError("This detector knows no normal images yet; call fit or load first")
        return self.scorer_

    def _fitted_config(self) -> Config:
        return self.config.replace(labelled=self.labelled_)


def select_held_out(labels, config: Config) -> np.ndarray:
    """Return which images are held out from training to set the threshold.

    Args:
      labels: int [n].
      config: the configuration.

    Returns:
      bool [n].
    """
    return arrays.hold_out(labels, config.data, calibration.images_needed(config.scoring.pass_rate))


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


def _check_classes(labels, class_names) -> tuple[str, ...]:
    """Return the names of the classes 0 to C - 1, all of which must have images."""
    numbers = np.unique(labels)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise UsageError(f"Labels must be 0 to C - 1 with images of every class. Received: {numbers.tolist()}")
    names = tuple(str(name) for name in (numbers if class_names is None else class_names))
    if len(names) != len(numbers):
        raise UsageError(f"{len(numbers)} classes need as many names. Received: {', '.join(names)}")
    return names


def make_scorer(model, config: Config, num_classes: int) -> SelfEnsembleScorer:
    """Create a scorer that shares the weights of a model in training.

    Args:
      model: a `MaskedContrastiveModel`.
      config: the configuration.
      num_classes: the number of classes C.
    """
    network = embedding_network(model.encoder, model.projection_head, config.scoring.embedding)
    return SelfEnsembleScorer(network, config.scoring, num_classes, not config.model.freeze_encoder)
