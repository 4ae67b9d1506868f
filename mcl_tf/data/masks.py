"""Masks of anomalous pixels in a folder of images, as MVTec AD has them: ground_truth/<class>/<name>_mask.png."""

from __future__ import annotations

import logging
import os

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.data import decoding, listing
from mcl_tf.data.layouts import MASKS, is_image
from mcl_tf.errors import UsageError, printable

_SUFFIX = "_mask"  # which the name of a mask may have after that of its image
_logger = logging.getLogger(__name__)


def find_masks(folder: str, names) -> dict[str, str]:
    """Find the masks of test images; those that match no image are logged in one line.

    Args:
      folder: the folder of the dataset.
      names: the paths of the images within it, test/<class>/<name>.

    Returns:
      {name: path of its mask}, of the images that have one.
    """
    base = os.path.join(os.path.expanduser(folder), MASKS)
    if not os.path.isdir(base):
        return {}
    found, images = {}, {_stem(name, os.path.join("test", "")): name for name in names}
    unmatched = []
    for path in filter(is_image, listing.find_files(base).files):
        stem = _stem(path, os.path.join(base, ""))
        name = images.get(stem.removesuffix(_SUFFIX)) or images.get(stem)
        if name is None:
            unmatched.append(path)
        else:
            found[name] = path
    if unmatched:
        more = f" (and {len(unmatched) - 1} more)" if len(unmatched) > 1 else ""
        _logger.warning("Masks must have the names of test images. Received: %s%s", printable(unmatched[0]), more)
    return found


def _stem(path: str, base: str) -> str:
    """Return a path below a folder without its ending."""
    return os.path.splitext(path.removeprefix(base))[0]


def read_mask(path: str, size: int, resize: str) -> np.ndarray:
    """Read a mask as an image is read: bool [size, size], true where it is brighter than half.

    Args:
      path: its file.
      size: side of the result in pixels.
      resize: see `views.prepare`.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            image = decoding.decode_in_python(file.read())
    except (OSError, ValueError, tf.errors.OpError):
        raise UsageError(f"The mask {printable(path)} cannot be read as an image") from None
    bright = views.prepare(image[None], size, resize)[0].numpy().max(axis=-1)
    return bright > bright.max() / 2.0
