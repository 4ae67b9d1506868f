"""Trains and scores with the installed package, outside of the checkout."""

import importlib.metadata
import pathlib

import numpy as np

import mcl_tf

where = pathlib.Path(mcl_tf.__file__)
assert "site-packages" in where.parts, f"mcl_tf comes from {where}, not from the installed package"
installed = {
    distribution.metadata["Name"].lower().replace("_", "-") for distribution in importlib.metadata.distributions()
}
assert "tensorflow-cpu" in installed, "tensorflow-cpu is not installed"
assert "tensorflow" not in installed, "the package has installed another TensorFlow"
images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
detector = mcl_tf.AnomalyDetector(encoder="small", width=0.25, projection_hidden=8, epochs=1, batch_size=4)
scores = detector.fit(images).decision_function(images)
assert scores.shape == (12,), scores.shape
assert np.all(np.isfinite(scores)), scores
assert np.ptp(scores) > 0.0, scores
print(f"mcl_tf {mcl_tf.__version__} from {where.parent.name}: scores {scores[:3].round(2)}")
