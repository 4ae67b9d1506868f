"""The normal images that a detector learns from: those that it is trained on, and those held out for the threshold."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Set

import numpy as np

from mcl_tf import calibration
from mcl_tf.config import Config
from mcl_tf.data import arrays, store
from mcl_tf.data.room import Room
from mcl_tf.errors import UsageError
from mcl_tf.run_record import TrainingRecord

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class NormalImages:
    """Normal images at the stored size, arrays or `StoredImages`.

    Attributes:
      trained: uint8 [n, s, s, 3], the images to train on.
      labels: int32 [n], their classes, 0 to C - 1.
      calibrating: uint8 [m, s, s, 3], the images held out.
      class_names: tuple of the C names.
      network_size: side of the network's input in pixels.
      record: what a training on these images is known by; None without a run directory.
    """

    trained: np.ndarray
    labels: np.ndarray
    calibrating: np.ndarray
    class_names: tuple[str, ...]
    network_size: int
    record: TrainingRecord | None

    @classmethod
    def collect(cls, images, labels, class_names, config: Config) -> NormalImages:
        """Read, check and divide the arguments of `AnomalyDetector.fit`.

        Raises:
          UsageError: they are not usable.
        """
        room = Room(config.run)
        images, labels, network_size = arrays.collect(images, labels, config.data, config.scoring.score, room)
        labels = np.zeros(len(images), np.int32) if labels is None else labels.astype(np.int32)
        names = _check_classes(labels, class_names)
        _check_images(images, labels)
        config = config.replace(labelled=len(names) > 1)
        held_out, record = select_held_out(labels, config), None
        if config.run.run_dir:
            record = TrainingRecord.create(config, images, labels, held_out, network_size)
        trained, calibrating = (store.select(images, chosen) for chosen in (~held_out, held_out))
        return cls(trained, labels[~held_out], calibrating, names, network_size, record)


def select_held_out(labels, config: Config) -> np.ndarray:
    """Return which images are held out from training to set the threshold.

    Args:
      labels: int [n].
      config: the configuration.

    Returns:
      bool [n].
    """
    return arrays.hold_out(labels, config.data, calibration.images_needed(config.scoring.pass_rate))


def _check_images(images, labels) -> None:
    """Refuse equal images and those of which none can be held out, and warn if none of them shows anything."""
    if all(np.array_equal(image, images[0]) for image in itertools.islice(images, 1, None)):
        raise UsageError(f"The normal images must differ from each other. Received: {len(images)} equal images")
    if np.bincount(labels).max() < 2:
        raise UsageError(
            "A class must have at least two images, because the threshold needs images that are not trained on. "
            f"Received: {len(labels)} classes with one image each"
        )
    if all((image == image[0, 0]).all() for image in images):
        _logger.warning("All %d normal images are of a single colour each; there is little to learn.", len(images))


def _check_classes(labels, class_names) -> tuple[str, ...]:
    """Return the names of the classes 0 to C - 1, all of which must have images."""
    numbers = np.unique(labels)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise UsageError(f"Labels must be 0 to C - 1 with images of every class. Received: {numbers.tolist()}")
    if isinstance(class_names, (str, bytes, Set)):
        raise UsageError(f"class_names must be a list, or a dictionary by label. Received: {class_names!r}")
    if isinstance(class_names, Mapping):
        absent = [number for number in numbers.tolist() if number not in class_names]
        if absent:
            raise UsageError(f"class_names must have a name for every label. Received: none for {absent}")
        class_names = [class_names[number] for number in numbers.tolist()]
    names = tuple(str(name) for name in (numbers if class_names is None else class_names))
    if len(names) != len(numbers):
        raise UsageError(f"{len(numbers)} classes need as many names. Received: {', '.join(names)}")
    return names
