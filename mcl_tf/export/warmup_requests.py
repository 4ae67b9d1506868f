"""Warm-up requests: TensorFlow Serving runs them when it loads a model, before any other request."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

FILE = "tf_serving_warmup_requests"
SIGNATURES = ("serving_default", "serving_bytes")  # the two that score


def write_warmup(folder: pathlib.Path, image_size: int, batch_sizes) -> bool:
    """Write one request per batch size and scoring signature, with images of the network's size.

    Args:
      folder: the SavedModel's assets.extra.
      image_size: side of the images in pixels.
      batch_sizes: ints, the batch sizes that the server should be warm for.

    Returns:
      Whether the file was written; its message classes come with the extra `serving`.
    """
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        return False
    image = np.random.default_rng(0).integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
    encoded = tf.io.encode_png(image).numpy()
    with tf.io.TFRecordWriter(str(folder / FILE)) as writer:
        for size in batch_sizes:
            for signature in SIGNATURES:
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = signature
                values = {"images": np.stack([image] * size), "image_bytes": [encoded] * size}
                name = "images" if signature == "serving_default" else "image_bytes"
                request.inputs[name].CopyFrom(tf.make_tensor_proto(values[name]))
                log = prediction_log_pb2.PredictLog(request=request)
                writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    return True
