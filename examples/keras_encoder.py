"""Detect a new pattern with an encoder of your own, a saved Keras model: python examples/keras_encoder.py

It draws the images, so that nothing is downloaded, and takes less than a minute. A small network learns to tell stripes
of eight directions apart. Without its last layer, it is an encoder from images float [n, s, s, 3] in [0, 1] to vectors.
The detector leaves it as it is and learns what stripes of one direction look like. Wider stripes, which the network has
never seen, are anomalies.
"""

import pathlib
import tempfile

import numpy as np
import tensorflow as tf
from sklearn.metrics import roc_auc_score

import mcl_tf

SIZE, KINDS = 32, 8


def draw(rng, count: int, angle: float, period: float = 6.0) -> np.ndarray:
    """Draw noisy stripes, uint8 [count, SIZE, SIZE, 3], at an angle with some variation."""
    y, x = np.mgrid[:SIZE, :SIZE]
    angles = angle + rng.normal(0.0, 0.03, (count, 1, 1))
    phases = rng.uniform(0.0, 2.0 * np.pi, (count, 1, 1))
    waves = np.sin(2.0 * np.pi * (x * np.cos(angles) + y * np.sin(angles)) / period + phases)
    grey = 128.0 + 60.0 * waves + rng.normal(0.0, 25.0, waves.shape)
    return np.clip(grey, 0.0, 255.0).astype(np.uint8)[..., None].repeat(3, axis=-1)


def train_encoder(rng, path: pathlib.Path) -> None:
    """Train a classifier of patterns and save it without its last layer."""
    layers = tf.keras.layers
    inputs = layers.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(16, 5, activation="relu")(inputs)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    features = layers.GlobalAveragePooling2D()(x)
    classifier = tf.keras.Model(inputs, layers.Dense(KINDS)(features))
    images = np.concatenate([draw(rng, 60, np.pi * kind / KINDS) for kind in range(KINDS)])
    labels = np.repeat(np.arange(KINDS), 60)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(tf.keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    found = classifier.fit(images / np.float32(255.0), labels, batch_size=32, epochs=10, verbose=0)
    print(f"The classifier tells {found.history['accuracy'][-1]:.1%} of the patterns")
    tf.keras.Model(inputs, features).save(path)


def main(folder: pathlib.Path) -> None:
    """Train and save an encoder, give it to a detector and test this."""
    tf.keras.utils.set_random_seed(0)
    rng, path = np.random.default_rng(0), folder / "encoder.keras"
    train_encoder(rng, path)
    angle = np.pi / KINDS
    detector = mcl_tf.AnomalyDetector(encoder=str(path), freeze_encoder=True).fit(draw(rng, 100, angle))
    images = np.concatenate([draw(rng, 50, angle), draw(rng, 50, angle, period=6.6)])
    is_anomaly = np.repeat([False, True], 50)
    scores, flagged = detector.decision_function(images), detector.predict(images)
    print(f"AUROC {roc_auc_score(is_anomaly, scores):.3f}")
    print(f"Flagged: {flagged[~is_anomaly].mean():.0%} of normal images, {flagged[is_anomaly].mean():.0%} of anomalies")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(pathlib.Path(temporary))
