"""The served model: the scorer with held-out scores and class names, one function per signature.

Reference: Cho, Seol, Lee, IJCAI 2021 (arXiv:2105.08793), section 3.3.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from mcl_tf import explanation
from mcl_tf.data import decoding
from mcl_tf.scorer import SelfEnsembleScorer

THRESHOLD, CALIBRATION = "threshold", "calibration_scores"  # names of variables; set_threshold finds them by name


class ServedScorer(tf.keras.Model):
    """A scorer with everything that an answer needs.

    Args:
      scorer: a `SelfEnsembleScorer` with Gaussians and threshold.
      calibration_scores: float [m], scores of held-out normal images, m at least 1.
      class_names: one name per class.
    """

    def __init__(self, scorer: SelfEnsembleScorer, calibration_scores, class_names):
        super().__init__(name="served", dtype="float32")
        scores = np.sort(np.asarray(calibration_scores, np.float32))
        self.scorer = scorer
        self.class_names = tuple(str(name) for name in class_names)
        self.calibration_scores = self.add_weight(
            name=CALIBRATION, shape=scores.shape, initializer="zeros", trainable=False, dtype="float32"
        )
        self.calibration_scores.assign(scores)
        self.built = True

    def signatures(self):
        """Return {name: (function, specification of its input)}; all dimensions of an input are variable."""
        images = tf.TensorSpec([None, None, None, None], tf.uint8, name="images")
        contents = tf.TensorSpec([None], tf.string, name="image_bytes")
        return {
            "serving_default": (lambda images: self.score(to_rgb(images)), images),
            "serving_bytes": (self.score_bytes, contents),
            "embed": (lambda images: self.embed(to_rgb(images)), images),
            "explain": (lambda images: self.explain(to_rgb(images)), images),
        }

    def score(self, images):
        """Score images.

        Args:
          images: uint8 [n, h, w, 3].

        Returns:
          A dictionary of
            score: float32 [n], higher for more anomalous images, always finite;
            is_anomaly: bool [n], whether the score is above the threshold;
            p_value: float32 [n], probability that a normal image scores at least as high, see `calibration.p_values`;
            nearest_class: int32 [n];
            class_name: string [n], the name of that class.
        """
        outputs = self.scorer.score_batch(images)
        scores, classes = _finite("score", outputs["score"]), outputs["nearest_class"]
        held_out = tf.convert_to_tensor(self.calibration_scores)
        at_least = tf.size(held_out) - tf.searchsorted(held_out, scores, side="left")
        return {
            "score": scores,
            "is_anomaly": scores > self.scorer.threshold,
            "p_value": tf.cast(1 + at_least, tf.float32) / tf.cast(1 + tf.size(held_out), tf.float32),
            "nearest_class": classes,
            "class_name": tf.gather(tf.constant(self.class_names), classes),
        }

    def score_bytes(self, image_bytes):
        """Score encoded images, string [n], each of its own size; see `score` and `mcl_tf.data.decoding`."""
        return self.score(decoding.decode_or_fail(image_bytes, self.scorer.image_size, self.scorer.resize))

    def embed(self, images):
        """Embed images uint8 [n, h, w, 3]; return `embedding` float32 [n, V, D] of every view, normalized."""
        return {"embedding": _finite("embedding", self.scorer.embed(images, self.scorer.view_count))}

    def explain(self, images):
        """Return the parts of the scores of images uint8 [n, h, w, 3], see `explanation.explain`."""
        outputs = explanation.explain(self.scorer, images)
        return {**outputs, **{name: _finite(name, outputs[name]) for name in ("distances", "heat_map")}}


def to_rgb(images):
    """Convert images with any number of channels to three: grey is repeated, alpha dropped.

    The result is that of `views.prepare`, because resizing treats every channel alike.

    Args:
      images: uint8 [n, h, w, c] with c known at run time only.

    Returns:
      uint8 [n, h, w, 3].
    """
    shape = tf.shape(images)
    known = tf.reduce_any(shape[3] == tf.constant([1, 3, 4]))
    message = "images must be uint8 [n, h, w, c] with h and w at least 1 and c = 1, 3 or 4. Received:"
    check = tf.debugging.Assert(known & tf.reduce_all(shape[1:3] > 0), [message, shape])
    with tf.control_dependencies([check]):
        colours = tf.broadcast_to(images[..., :3], [*tf.unstack(shape[:3]), 3])
    return tf.ensure_shape(colours, [None, None, None, 3])


def _finite(name, values):
    """Return the values; an operation fails and name the first image with a value that is not finite."""
    bad = tf.where(~tf.math.is_finite(values))[:1, 0]
    message = f"The model has no finite {name} for the image at index"
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message, bad])]):
        return tf.identity(values)
