"""The SavedModel for TensorFlow Serving, its versions and what lies beside it."""

from mcl_tf.export.saved_model import set_threshold

__all__ = ["set_threshold"]
