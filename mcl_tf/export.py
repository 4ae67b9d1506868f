"""A SavedModel for TensorFlow Serving, self-ensemble inference inside."""

from __future__ import annotations

import os
import pathlib
import shutil

import tensorflow as tf

from mcl_tf import stacks
from mcl_tf.errors import UsageError
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
      The path, absolute.

    Raises:
      UsageError: the path is a file.
    """
    path = pathlib.Path(path).resolve()
    if path.exists() and not path.is_dir():
        raise UsageError(f"A SavedModel is a folder. Received: {path}, which is a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    specification = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

    def serve(images):
        return scorer(images)

    archive = tf.keras.export.ExportArchive()
    archive.track(scorer)
    archive.add_endpoint(SIGNATURE, serve, input_signature=[specification])
    try:
        stacks.write_archive(archive, str(temporary))
        if path.exists():
            os.replace(path, replaced)
        os.replace(temporary, path)
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return str(path)
