"""A detector made on one TensorFlow stack, scored on another.

    python -m tests.exchange make DIR     trains, saves and exports into DIR, with pictures and their scores
    python -m tests.exchange check DIR    loads both forms and compares

The golden figures of losses and scores are in the test suite, which runs on both stacks.
"""

import pathlib
import sys

import numpy as np
import tensorflow as tf

import mcl_tf

OPTIONS = {"encoder": "small", "width": 0.5, "projection_hidden": 32, "epochs": 3, "batch_size": 32}


def make(directory: pathlib.Path) -> None:
    """Trains on the embedded digit 0 and writes the detector, the SavedModel and the scores of other digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pictures = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None].repeat(3, axis=-1)
    detector = mcl_tf.AnomalyDetector(**OPTIONS).fit(pictures[data.target == 0])
    detector.save(directory / "detector")
    detector.export(directory / "saved_model")
    np.save(directory / "pictures.npy", pictures[:40])
    np.save(directory / "scores.npy", detector.decision_function(pictures[:40]))
    print(f"made with TensorFlow {tf.__version__}")


def check(directory: pathlib.Path) -> None:
    """Both forms must give the scores that were written: 1e-4 relative, float32 in another order of sums."""
    pictures, scores = np.load(directory / "pictures.npy"), np.load(directory / "scores.npy")
    loaded = mcl_tf.AnomalyDetector.load(directory / "detector").decision_function(pictures)
    np.testing.assert_allclose(loaded, scores, rtol=1e-4)
    model = tf.saved_model.load(str(directory / "saved_model"))
    served = model.signatures["serving_default"](images=tf.constant(pictures))["score"]
    np.testing.assert_allclose(served, scores, rtol=1e-4)
    print(f"detector and SavedModel give the same scores with TensorFlow {tf.__version__}")


if __name__ == "__main__":
    {"make": make, "check": check}[sys.argv[1]](pathlib.Path(sys.argv[2]))
