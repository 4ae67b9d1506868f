"""The library's front door: an anomaly detector that learns from normal images.

Reference: Cho, Seol, Lee, "Masked Contrastive Learning for Anomaly Detection", IJCAI 2021 (arXiv:2105.08793).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import tensorflow as tf

from mcl_tf import calibration, explanation, fitting, persistence
from mcl_tf.config import Config
from mcl_tf.data import arrays
from mcl_tf.data.room import Room
from mcl_tf.errors import UsageError
from mcl_tf.networks import is_pretrained
from mcl_tf.normal_images import NormalImages
from mcl_tf.scorer import SelfEnsembleScorer, make_scorer
from mcl_tf.texture import TextureDescriptor, is_grey
from mcl_tf.training import restarts
from mcl_tf.training.callbacks import CollapseError, ProgressReport
from mcl_tf.training.trainer import build_model
from mcl_tf.utils.console import is_terminal

_FIT_ARGUMENTS = {"images", "labels", "class_names", "callbacks", "verbose"}
_logger = logging.getLogger(__name__)


class AnomalyDetector:
    """Scores how much an image differs from normal images.

    Signs are PyOD's, not scikit-learn's: scores are higher for more anomalous images, and `predict` gives 1 for an
    anomaly.

    Example:
      >>> detector = AnomalyDetector(encoder="small", epochs=20).fit(normal_images)
      >>> scores = detector.decision_function(images)
      >>> detector.save("detector")
      >>> AnomalyDetector.load("detector").predict(images)

    TensorFlow does not survive a fork: a process that was forked from one that has used a detector hangs. Start such
    processes with `multiprocessing.get_context("spawn")` and load the detector in each.

    Images are a uint8 array [n, h, w, c] with c = 1, 3 or 4; a list of arrays [h, w, c] of any sizes; a list of paths
    of image files; or a `tf.data.Dataset` of images, batched or single, with or without labels.

    Args:
      config: a `Config`; the defaults if None.
      **overrides: options by name, e.g. `encoder="small"`, `epochs=20`.

    Attributes:
      config (Config): the configuration; `fit` never changes it.
      threshold_ (float): the score above which an image counts as an anomaly. This and the following attributes exist
        after `fit` or `load`.
      promised_rate_ (float): the largest probability that a new normal image counts as an anomaly, with the threshold
        that `fit` has set.
      calibration_scores_ (np.ndarray): float32 [m], scores of the normal images held out from training.
      class_names_ (tuple): the names of the classes that the detector distinguishes.
      labelled_ (bool): whether it was trained with labels.
      fitted_config_ (Config): the configuration in force: `labelled` follows from the labels, and `score` is "local"
        if the network of `score="both"` could not be trained.
      restarts_ (int): the number of times that training started again because the embedding had collapsed.
      scorer_ (SelfEnsembleScorer): the scorer behind it.

    Raises:
      UsageError: an option is unknown or out of its range.
    """

    def __init__(self, config: Config | None = None, **overrides: Any):
        for name in _FIT_ARGUMENTS & set(overrides):
            raise UsageError(f"{name} is an argument of fit and no option. Received: {name}={overrides[name]!r}")
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
        return float(self._learned("scorer_", "threshold_").threshold)

    @property
    def promised_rate_(self) -> float:
        """The largest probability that a new normal image counts as an anomaly."""
        count = len(self._learned("calibration_scores_", "promised_rate_"))
        return calibration.promised_rate(count, self.fitted_config_.scoring.pass_rate)

    @property
    def labelled_(self) -> bool:
        """Whether the detector was trained with labels."""
        return self._learned("fitted_config_", "labelled_").data.labelled

    def fit(self, images, labels=None, *, class_names=None, callbacks=(), verbose="auto") -> AnomalyDetector:
        """Train on normal images, fit the Gaussians and set the threshold.

        A seeded share of the images is held out from training and sets the threshold: `calibration_fraction`, or as
        many as `pass_rate` needs (19 for 0.95), but no more than half. With `run_dir`, checkpoints are kept there, and
        training with the same options and images resumes from the newest one. Options that follow the training, such as
        `views` and `method`, may differ.

        Args:
          images: normal images; they are held as uint8 at one size, in memory up to `memory_limit`, and beyond it in a
            file in `cache_dir`.
          labels: int [n], classes 0 to C - 1, for labelled training; None for one class. A dataset has labels as second
            part of its elements.
          class_names: names of the classes, a list or a dictionary by label; their numbers by default.
          callbacks: Keras callbacks, or one. `self.model` is the `MaskedContrastiveModel` in training; `self.params`
            has `epochs`, `steps` (per epoch) and `batch_size`.
          verbose: 1 shows progress, 0 does not, "auto" shows it on a terminal.

        Returns:
          The detector.

        Raises:
          UsageError: the images or labels are not usable, `run_dir` holds another training, or training diverged or
            collapsed.
          TrainingInterrupted: a signal stopped the training.
        """
        if isinstance(callbacks, tf.keras.callbacks.Callback):
            callbacks = [callbacks]
        for name in persistence.LEARNED:
            self.__dict__.pop(name, None)
        # The places of an encoder that is trained on few images from scratch tell less than their texture.
        with_patches = self.config.scoring.score != "image" and is_pretrained(self.config.model)
        if with_patches and 1.0 not in self.config.scoring.view_areas:
            raise UsageError(
                "With a pretrained encoder, the local score looks at all places of an image. view_area must then be 1, "
                f"or have it among others. Received: {self.config.scoring.view_area}"
            )
        normal = NormalImages.collect(images, labels, class_names, self.config)
        config = self.config.replace(labelled=len(normal.class_names) > 1)

        visible = bool(is_terminal() if verbose == "auto" else verbose)
        callbacks = [*callbacks, ProgressReport()] if visible else callbacks
        model, config, restart_count = _train(config, normal, callbacks)
        texture = None
        if config.scoring.score != "image":
            texture = TextureDescriptor(normal.trained.shape[1], 1 if is_grey(normal.trained) else 3)
        scorer = make_scorer(model, config, len(normal.class_names), texture, with_patches)
        calibration_scores = fitting.fit_scorer(scorer, normal, config.scoring.pass_rate, visible)

        self.class_names_, self.fitted_config_, self.restarts_ = normal.class_names, config, restart_count
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

    def score_samples(self, images) -> np.ndarray:
        """Return the conformal p-values float32 [n], lower for more anomalous images, as scikit-learn's scores are.

        A p-value is the probability that a new normal image scores at least as high, see `calibration.p_values`.
        """
        held_out = self._learned("calibration_scores_", "score_samples")
        return calibration.p_values(held_out, self.decision_function(images))

    def predict_proba(self, images) -> np.ndarray:
        """Return float32 [n, 2] as PyOD does: the conformal p-value of an image, and 1 minus it."""
        p_values = self.score_samples(images)
        return np.stack([p_values, 1.0 - p_values], axis=1)

    def explain(self, images) -> dict[str, Any]:
        """Return the parts of the scores, and where the images differ from normal ones.

        Returns:
          A dictionary of arrays, see `explanation.explain_images`; `heat_map` is float32 [n, h, w], at the size of the
          images, or a list of float32 [h, w] unless these are an array. `heat_maps.overlay` draws one over its image.
        """
        return explanation.explain_images(self._fitted(), images)

    def update(self, images, labels=None, *, verbose="auto") -> AnomalyDetector:
        """Fit the Gaussians and the threshold to new normal images, without training, and return the detector.

        What the detector was fitted to before does not count any more, so pass earlier images again that should. It is
        logged how many of the images the old threshold would have flagged; if these are more than half, the network
        should be trained anew. If something fails, the detector stays as it was.

        Args:
          images: normal images, as for `fit`.
          labels: int [n], the same classes as in training; None for one class.
          verbose: see `fit`.

        Raises:
          UsageError: the images or labels are not usable.
        """
        self._fitted()
        return fitting.update(self, images, labels, bool(is_terminal() if verbose == "auto" else verbose))

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

        Raises:
          UsageError: the value is not finite.
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
          UsageError: the folder holds other files, is a mount point or the working directory, or cannot be written.
        """
        self._fitted()
        persistence.save(self, path)

    @classmethod
    def load(cls, path) -> AnomalyDetector:
        """Load what `save` has written; no code from the folder is executed.

        Args:
          path: the folder, or a run directory, whose detector is loaded.

        Raises:
          UsageError: the folder holds no detector.
        """
        return persistence.load(cls, path)

    def export(
        self,
        path,
        *,
        format: str = "saved_model",
        precision: str | None = None,
        images=None,
        new_version: bool = False,
        metrics: dict | None = None,
    ) -> str:
        """Write a model that scores without this library; an older one is replaced if it is as an export wrote it.

        Args:
          path: folder of a SavedModel, FILE.tflite or FILE.onnx.
          format: "saved_model" for TensorFlow Serving (`mcl_tf.export.saved_model` describes its signatures), "litert"
            for LiteRT, formerly TensorFlow Lite (`mcl_tf.export.litert`), or "onnx" (`mcl_tf.export.onnx`).
          precision: type of the weights: "float32", with SavedModel and LiteRT also "float16", with LiteRT also "int8";
            None for the option `export_precision` or `litert_precision`.
          images: with int8, normal images that were not trained on. int8 moves all scores a little; threshold and
            held-out scores move as the scores of these images do. None leaves them as they are.
          new_version: whether `path` is a folder of versions of a SavedModel, which gets a new one; of those that were
            exported by this library, the oldest ones beyond `keep_versions` are removed.
          metrics: the results on a test split, for the model card.

        Returns:
          The absolute path of the model.

        Raises:
          UsageError: an argument is wrong or without effect, an extra is missing, or the path holds something else or
            cannot be written.
        """
        from mcl_tf.export import formats

        self._fitted()
        return formats.export(self, path, format, precision, images, new_version, metrics)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for `pickle`, `copy` and `joblib`: options, and the arrays that `save` writes."""
        return persistence.to_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        persistence.from_state(self, state)

    def _fitted(self) -> SelfEnsembleScorer:
        if "scorer_" not in self.__dict__:
            raise UsageError("This detector knows no normal images yet; call fit or load first")
        return self.scorer_

    def _learned(self, name: str, wanted: str) -> Any:
        if name not in self.__dict__:
            raise AttributeError(f"{wanted} exists after fit or load")
        return self.__dict__[name]


def _train(config: Config, normal: NormalImages, callbacks):
    """Return (model, configuration in force, number of restarts); the model is None for a local score alone."""
    size = normal.network_size
    if config.model.freeze_encoder:
        return build_model(config, size), config, 0
    if config.scoring.score == "local":
        return None, config, 0
    try:
        images = arrays.resize(normal.trained, size, room=Room(config.run))
        run_dir = config.run.run_dir or None
        model, count = restarts.train(config, images, normal.labels, run_dir, callbacks, normal.record)
        return model, config, count
    except CollapseError as error:
        if config.scoring.score != "both":
            raise UsageError(
                f"{error} It did so again with gentler settings, so that there is no detector. Try score local, which "
                f"trains no network, more images or a larger batch_size. Received: {len(normal.trained)} images"
            ) from None
        _logger.warning("%s It did so again with gentler settings. Only the local score is used.", error)
        return None, config.replace(score="local"), 1
