"""Image anomaly detection by masked contrastive learning and self-ensemble inference."""

import os
from typing import TYPE_CHECKING

from mcl_tf.version import __version__, check_installed_tensorflow, check_python

check_python()
check_installed_tensorflow()

# TensorFlow's oneDNN kernels, which it takes of itself on the newest processors, do not round the same way every
# time: a run that was stopped would not go on to the bit. Whoever sets this, or main.py's --onednn, has them.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

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
