"""Explains the scores of image files: in words, and by pictures of the images under their heat maps."""

from __future__ import annotations

import os
import pathlib

import tensorflow as tf
from PIL import Image

from mcl_tf import heat_maps
from mcl_tf.data import decoding, jpeg_warnings
from mcl_tf.errors import UsageError, printable
from mcl_tf.utils.atomic import try_folder


class FileExplainer:
    """Adds to the rows of image files where in the image an anomaly is, and draws the images.

    Args:
      explain: the signature `explain` of a SavedModel; None for a model without one.
      folder: where the pictures are drawn, <path of the image>.png; "" for no pictures.
      files: all files that are scored; their paths are relative to the folder that they share.
      resume: whether there may be earlier pictures.

    Raises:
      UsageError: the folder of pictures cannot be written, or holds files and `resume` is off.
    """

    def __init__(self, explain, folder, files, resume: bool):
        self._explain = explain
        self._folder = pathlib.Path(folder).expanduser() if folder else None
        folders = {os.path.dirname(os.path.abspath(file)) for file in files}
        self._base = os.path.commonpath(folders) if folders else ""
        if self._folder is None:
            return
        if explain is None:
            raise UsageError(f"Heat maps need a SavedModel; files for other devices have none. Received: {folder}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try_folder(self._folder)
            if any(self._folder.iterdir()) and not resume:
                raise UsageError(f"The folder of heat maps {folder} has files. Resume to add to it, or choose another")
        except OSError as error:
            raise UsageError(f"The folder of heat maps {folder} cannot be written: {error.strerror}") from None

    def complete(self, row: dict, contents: bytes) -> None:
        """Set `place` in the row of an image, "" for a normal one, and draw the image.

        Args:
          row: see `score_file.SCORES`.
          contents: the bytes of the image.
        """
        row["place"] = ""
        known = self._explain is not None and "heat_map" in self._explain.structured_outputs
        if not (known and (row["is_anomaly"] or self._folder)):
            return
        with jpeg_warnings.heard([contents], quiet=True):  # a damaged image is reported elsewhere
            image = decoding.decode_in_python(contents)
        heat = self._explain(images=tf.constant(image[None]))["heat_map"][0].numpy()
        if row["is_anomaly"]:
            row["place"] = heat_maps.place_of(heat)
        if self._folder:
            self._draw(row["file"], heat_maps.overlay(image, heat))

    def _draw(self, name: str, pixels) -> None:
        assert self._folder is not None
        path = self._folder / (os.path.relpath(os.path.abspath(name), self._base) + ".png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        except OSError as error:
            raise UsageError(f"The heat map {printable(str(path))} cannot be written: {error.strerror}") from None


def is_within(name: str, folder) -> bool:
    """Return whether a file lies in a folder; none does in ""."""
    if not folder:
        return False
    folder = os.path.realpath(os.path.expanduser(folder))
    return os.path.commonpath([os.path.realpath(name), folder]) == folder
