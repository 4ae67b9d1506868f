"""The version and the supported environment.

The module imports nothing, so that a build can read it and an old Python can report the problem.
"""

import sys

__version__ = "0.1.0"

PYTHON = ((3, 10), (3, 13))
TENSORFLOW = ((2, 15), (2, 21))
_TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tensorflow-intel", "tf-nightly")


def check_python(version=tuple(sys.version_info)):
    """Check that the running Python is supported.

    Args:
      version: a sequence that begins with the major and minor version.

    Raises:
      ImportError: the Python is too old or too new.
    """
    _check("Python", version, PYTHON, "Make an environment with one of these, e.g. python3.11 -m venv .venv")


def check_tensorflow(version):
    """Check that a TensorFlow version is supported.

    Args:
      version: the version as text, e.g. "2.21.0".

    Raises:
      ImportError: the TensorFlow is too old or too new.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2])
    (major, low), (_, high) = TENSORFLOW
    _check("TensorFlow", numbers, TENSORFLOW, f"pip install 'tensorflow>={major}.{low},<{major}.{high + 1}'")


def check_installed_tensorflow():
    """Check the installed TensorFlow before its import, which takes seconds and may fail.

    Raises:
      ImportError: the TensorFlow is too old or too new.
    """
    from importlib import metadata

    for name in _TENSORFLOW_PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        check_tensorflow(version)


def check_keras_settings():
    """Check that Keras runs on TensorFlow, before its import fails with many lines.

    Keras 2 knows nothing else. A Keras that is imported already is asked itself.

    Raises:
      ImportError: the environment or keras.json asks for another backend of Keras, or for the package tf_keras.
    """
    import os
    import sys
    from importlib import metadata

    try:
        if not metadata.version("keras").startswith("3."):
            return
    except metadata.PackageNotFoundError:
        return
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if legacy in ("true", "True", "1"):
        raise ImportError(
            "mcl_tf needs Keras 3, or Keras 2.15 with TensorFlow 2.15, and not tf_keras. Unset TF_USE_LEGACY_KERAS. "
            f"Received: TF_USE_LEGACY_KERAS={legacy}"
        )
    config = getattr(sys.modules.get("keras"), "config", None)
    backend = _keras_backend() if config is None else config.backend()
    if backend != "tensorflow":
        raise ImportError(
            "mcl_tf needs TensorFlow as the backend of Keras. Set KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: the backend {backend}"
        )


def _keras_backend():
    """Return the backend that Keras will choose: that of the environment, else that of keras.json."""
    import json
    import os

    home = os.environ.get("KERAS_HOME", os.path.join("~", ".keras"))
    try:
        with open(os.path.expanduser(os.path.join(home, "keras.json"))) as file:
            settings = json.load(file)
    except (OSError, ValueError):
        settings = None
    configured = settings.get("backend") if isinstance(settings, dict) else None
    return os.environ.get("KERAS_BACKEND") or configured or "tensorflow"


def _check(what, version, supported, fix):
    low, high = (".".join(str(part) for part in end) for end in supported)
    if not supported[0] <= version[:2] <= supported[1]:
        received = ".".join(str(part) for part in version[:3])
        raise ImportError(f"mcl_tf needs {what} {low} to {high}. {fix}. Received: {what} {received}")
