"""A file of TensorBoard's events that a failing disk closes, and nothing else."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import tensorflow as tf

from mcl_tf.errors import one_line

DISK_ERRORS = (tf.errors.OpError, OSError)  # raised by a full or failing disk
_DESCRIPTIONS = {
    "similarity/positive": "Mean cosine of two views of an image.",
    "similarity/negative": "Mean cosine of views of different images.",
    "similarity/alignment": "Mean squared distance of two views of an image (Wang and Isola 2020); lower is better.",
    "similarity/uniformity": "Logarithm of the mean Gaussian potential of two images (Wang and Isola 2020): 0 if all "
    "projections are equal, about -4 if they are spread evenly.",
    "training/share_of_anchors_without_partner": "These are left out of the mean of the attraction.",
}
_logger = logging.getLogger(__name__)


class EventFile:
    """TensorBoard's events in a folder; if the disk fails, it logs a warning once and writes no more.

    One folder should have one writer at a time, because TensorBoard reads the files of a folder one after the other.

    Args:
      folder: where the events go.
    """

    def __init__(self, folder):
        self.folder = str(folder)
        self.writer: tf.summary.SummaryWriter | None = None
        self.failed = False

    def write(self, step: int, points: dict) -> None:
        """Write one point per curve and flush them to the disk.

        Args:
          step: the number of optimizer steps.
          points: {name of the curve: value}.
        """

        def scalars():
            for name, value in points.items():
                tf.summary.scalar(name, value, description=_DESCRIPTIONS.get(name))

        self.record(step, scalars)

    def record(self, step: int, write: Callable[[], object]) -> None:
        """Call a function that writes summaries, and flush them to the disk.

        Args:
          step: the number of optimizer steps, the default step of its summaries.
          write: the function; it may also write other files to the folder.
        """
        if self.failed:
            return
        try:
            self.writer = self.writer or tf.summary.create_file_writer(self.folder)
            with self.writer.as_default(step=step):
                try:
                    write()
                    self.writer.flush()
                except DISK_ERRORS:
                    self.close()  # or leaving `with` would fail again and leave this writer the default one
                    raise
        except DISK_ERRORS as error:
            self.failed = True
            reason = one_line(error, 300)  # the file name comes first
            _logger.warning("%s takes no curves for TensorBoard (%s); the run continues.", self.folder, reason)

    def close(self) -> None:
        """Close the file; everything that could be written is on the disk already."""
        with contextlib.suppress(*DISK_ERRORS):
            if self.writer is not None:
                self.writer.close()
