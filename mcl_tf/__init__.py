"""Image anomaly detection by masked contrastive learning and self-ensemble inference."""

import os
import platform
from typing import TYPE_CHECKING

from mcl_tf.version import __version__, check_installed_tensorflow, check_python

check_python()
check_installed_tensorflow()

if platform.machine() in ("x86_64", "AMD64"):
    # TensorFlow takes its faster oneDNN kernels of itself on the newest processors alone: a training step on two
    # cores with AVX2 took half the time with them. It reads this when it is imported.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from mcl_tf.config import Config  # noqa: E402 - after the checks, whose message is plainer than a syntax error
from mcl_tf.errors import UsageError  # noqa: E402

if TYPE_CHECKING:
    from mcl_tf.detector import AnomalyDetector


__all__ = ["AnomalyDetector", "Config", "UsageError", "__version__"]


def __getattr__(name: str):
    # TensorFlow takes seconds to import; `main.py --help` needs none of it.
    if name == "AnomalyDetector":
        from mcl_tf.detector import AnomalyDetector

        return AnomalyDetector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
