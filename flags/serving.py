"""The exported model."""

from flags.define import define
from mcl_tf.config import ServingConfig

define(
    ServingConfig,
    export="Comma-separated formats of the exported model: `saved_model` for TensorFlow Serving, `litert` (TensorFlow "
    "Lite; model.tflite) and `onnx` (model.onnx; needs the extra `onnx`) for other devices.",
    export_precision="Type of the network's weights in the SavedModel; `float16` halves its size, computation stays "
    "in float32.",
    litert_precision="Type of the weights in model.tflite; `float16` takes half of the bytes, `int8` a quarter.",
    keep_versions="Number of newest versions to keep in saved_model/; 0 keeps all.",
    serving_batch_sizes="Comma-separated batch sizes of the warm-up requests; use the server's allowed_batch_sizes.",
)
