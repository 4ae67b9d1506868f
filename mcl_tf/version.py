"""The version, and what it runs on; imports nothing, so that a build reads it and an old Python can say so."""

import sys

__version__ = "0.1.0"

PYTHON = ((3, 10), (3, 13))
TENSORFLOW = ((2, 15), (2, 21))
_TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-macos", "tensorflow-intel", "tf-nightly")


def check_python(version=tuple(sys.version_info)):
    """Refuses a Python outside the range with one line.

    Raises:
      ImportError: the Python is too old or too new.
    """
    _check("Python", version, PYTHON, "Make an environment with one of these, e.g. python3.11 -m venv .venv")


def check_tensorflow(version):
    """Refuses a TensorFlow outside the range, given as "2.21.0", with one line.

    Raises:
      ImportError: the TensorFlow is too old or too new.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2])
    (major, low), (_, high) = TENSORFLOW
    _check("TensorFlow", numbers, TENSORFLOW, f"pip install 'tensorflow>={major}.{low},<{major}.{high + 1}'")


def check_installed_tensorflow():
    """Refuses an installed TensorFlow outside the range before its import, which takes seconds and may fail."""
    from importlib import metadata

    for name in _TENSORFLOW_PACKAGES:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        check_tensorflow(version)


def _check(what, version, supported, fix):
    low, high = (".".join(str(part) for part in end) for end in supported)
    if not supported[0] <= version[:2] <= supported[1]:
        received = ".".join(str(part) for part in version[:3])
        raise ImportError(f"mcl_tf needs {what} {low} to {high}. {fix}. Received: {what} {received}")
