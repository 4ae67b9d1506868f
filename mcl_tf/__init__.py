"""Image anomaly detection by masked contrastive learning and self-ensemble inference.

On x86, set the environment variable TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is imported, as `main.py` does: on
processors with AVX2, where TensorFlow leaves its oneDNN kernels off, they halve the time of a training step.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING

from mcl_tf.version import __version__, check_installed_tensorflow, check_keras_settings, check_python

check_python()
check_installed_tensorflow()
check_keras_settings()

from mcl_tf.config import Config  # noqa: E402 - after the checks, whose message is clearer than a syntax error
from mcl_tf.errors import UsageError  # noqa: E402

if TYPE_CHECKING:
    from mcl_tf.detector import AnomalyDetector
    from mcl_tf.drift_check import drift
    from mcl_tf.file_scoring import score_files


__all__ = ["AnomalyDetector", "Config", "UsageError", "__version__", "drift", "score_files"]

# Imported on first use, because TensorFlow takes seconds to import and `main.py --help` needs none of it.
_LAZY = {
    "AnomalyDetector": "mcl_tf.detector",
    "drift": "mcl_tf.drift_check",
    "score_files": "mcl_tf.file_scoring",
}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if importlib.util.find_spec(f"mcl_tf.{name}"):
        return importlib.import_module(f"mcl_tf.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
