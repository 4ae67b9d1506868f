"""Trains a detector on one TensorFlow stack and scores with it on the other.

    python -m tests.exchange make DIR     trains, saves and exports into DIR, with images and their scores
    python -m tests.exchange check DIR    loads both forms and compares

The test suite, which runs on both stacks, compares losses and scores with golden values.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

import mcl_tf

OPTIONS = {"encoder": "small", "width": 0.5, "projection_hidden": 32, "epochs": 3, "batch_size": 32}


def make(directory: pathlib.Path) -> None:
    """Train on the embedded digit 0; write the detector, the SavedModel and the scores of 40 digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None].repeat(3, axis=-1)
    detector = mcl_tf.AnomalyDetector(**OPTIONS).fit(images[data.target == 0])
    detector.save(directory / "detector")
    detector.export(directory / "saved_model")
    np.save(directory / "images.npy", images[:40])
    np.save(directory / "scores.npy", detector.decision_function(images[:40]))
    print(f"made with TensorFlow {tf.__version__}")


def check(directory: pathlib.Path) -> None:
    """Check that both forms give the stored scores, up to the effect of another order of float32 sums.

    Scores are in units of their spread over normal images; those near 0 differ by some 1e-4.
    """
    images, scores = np.load(directory / "images.npy"), np.load(directory / "scores.npy")
    loaded = mcl_tf.AnomalyDetector.load(directory / "detector").decision_function(images)
    np.testing.assert_allclose(loaded, scores, rtol=1e-4, atol=1e-3)
    model = tf.saved_model.load(str(directory / "saved_model"))
    served = model.signatures["serving_default"](images=tf.constant(images))["score"]
    np.testing.assert_allclose(served, scores, rtol=1e-4, atol=1e-3)
    print(f"detector and SavedModel give the same scores with TensorFlow {tf.__version__}")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
