"""A SavedModel for TensorFlow Serving, self-ensemble inference inside."""

from __future__ import annotations

import os
import pathlib
import shutil

import tensorflow as tf

from mcl_tf.inference import SelfEnsembleScorer

SIGNATURE = "serving_default"


def export_saved_model(scorer: SelfEnsembleScorer, path) -> str:
    """Writes the scorer as a SavedModel, complete or not at all: under another name first, then renamed.

    Its signature `serving_default` takes `images`, uint8 [n, h, w, 3] of any n, h and w, and gives `score`
    float32 [n] (higher is more abnormal), `is_anomaly` bool [n] and `nearest_class` int32 [n]. Keras'
    ExportArchive is what TensorFlow's C++ loader, and with it TF Serving, reads; a plain `tf.Module` is not.

    Args:
      scorer: with Gaussians and threshold set.
      path: folder of the SavedModel; one that is there is replaced. For TF Serving its name is a number.

    Returns:
      The path.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    specification = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

    def serve(images):
        return scorer(images)

    archive = tf.keras.export.ExportArchive()
    archive.track(scorer)
    archive.add_endpoint(SIGNATURE, serve, input_signature=[specification])
    archive.write_out(str(temporary), verbose=False)
    if path.exists():
        shutil.rmtree(path)
    os.replace(temporary, path)
    return str(path)
