"""Images from a caller: arrays, paths of files or `tf.data.Dataset`s, checked and converted to one form."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator

import numpy as np
import tensorflow as tf

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data import image_files, jpeg_warnings, store
from mcl_tf.data.detail import SAMPLE, warn_of_lost_detail
from mcl_tf.data.file_reading import FileReading
from mcl_tf.data.room import Reading, Room
from mcl_tf.data.store import StoredImages
from mcl_tf.data.tasks import choose_sizes, read_images
from mcl_tf.errors import UsageError

_FORM = (
    "Images must be uint8 [n, h, w, c] with c = 1, 3 or 4, a list of uint8 [h, w, c] or of paths of image files, or a "
    "tf.data.Dataset of images"
)
_BYTES = 2**27  # of the images of files that are decoded before they are scored


def check_form(shape, dtype) -> None:
    """Check the shape [n, h, w, c] and the dtype of images.

    Raises:
      UsageError: they are not those of images.
    """
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape[1:] or dtype != np.uint8:
        raise UsageError(f"{_FORM}. Received: {np.dtype(dtype).name} {list(shape)}")


class Files(list):
    """Paths of image files, each a string."""


def as_source(images) -> np.ndarray | StoredImages | tf.data.Dataset | Files:
    """Bring images of a caller to one of few forms.

    Args:
      images: uint8 [n, h, w, c]; a list of uint8 [h, w, c], of several sizes, too; the path of an image file, or a list
        of such paths; or a dataset of images, batched or single, with or without labels.

    Returns:
      An array uint8 [n, h, w, c] or `StoredImages`; a dataset of single images, with labels if it had some; or the
      paths of files, which are not read yet.

    Raises:
      UsageError: these are no images.
    """
    if isinstance(images, tf.data.Dataset):
        return _unbatched(images)
    if isinstance(images, (StoredImages, Files)):
        return images
    images = [images] if isinstance(images, (str, os.PathLike)) else images
    if isinstance(images, (list, tuple)) and images:
        if all(isinstance(image, (str, os.PathLike)) for image in images):
            return Files(os.path.expanduser(path) for path in images)
        if len({np.shape(image) for image in images}) > 1:
            return _from_several_sizes(images)
    try:
        images = np.asarray(images)
    except ValueError:
        raise UsageError(f"{_FORM}. Received: {type(images).__name__}") from None
    check_form(images.shape, images.dtype)
    return images


def _from_several_sizes(images) -> tf.data.Dataset:
    images = [np.asarray(image) for image in images]
    for image in images:
        check_form((1, *image.shape), image.dtype)
    form = tf.TensorSpec([None, None, 3], tf.uint8)

    def in_colour():
        return (np.repeat(image, 3, -1) if image.shape[-1] == 1 else image[..., :3] for image in images)

    data = tf.data.Dataset.from_generator(in_colour, output_signature=form)
    return data.apply(tf.data.experimental.assert_cardinality(len(images)))


def sides(source) -> list[tuple[int, int]]:
    """Return height and width of every image of the result of `as_source`."""
    source = image_files.read(source) if isinstance(source, Files) else source
    if isinstance(source, tf.data.Dataset):
        shapes = source.map(lambda image, *_: tf.shape(image)[:2], tf.data.AUTOTUNE, deterministic=True)
        return [tuple(shape.tolist()) for shape in shapes.as_numpy_iterator()]
    return [source.shape[1:3]] * len(source)


def _unbatched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return single elements of a dataset of images or batches, alone or with labels."""
    spec = dataset.element_spec
    image = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(image, tf.TensorSpec) or image.shape.rank not in (3, 4):
        raise UsageError(f"{_FORM}. Received: elements {spec}")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise UsageError("A dataset must end. Received: one that repeats without end; take(n) or repeat(n) ends it")
    batched = image.shape.rank == 4
    check_form(([] if batched else [None]) + image.shape.as_list(), image.dtype.as_numpy_dtype)
    return dataset.unbatch() if batched else dataset


def collect(images, labels, config: DataConfig, score: str = "image", room: Room | None = None):
    """Read all images at one size.

    Args:
      images: see `as_source`.
      labels: int [n] or None; must be None for a dataset.
      config: `image_size` and `detail_size`.
      score: "image", "local" or "both", see `tasks.choose_sizes`.
      room: holds the images; by default with the limits of `RunConfig`.

    Returns:
      uint8 [n, s, s, 3], an array or `StoredImages`; int [n] or None; the side of the network's input.

    Raises:
      UsageError: these are not images, a file cannot be decoded, there are fewer than two, not one label each, or a
        dataset does not end.
    """
    room = room or Room()
    if isinstance(images, tf.data.Dataset) and labels is not None:
        raise UsageError("A dataset has labels as second part of its elements. Received: labels too")
    images = as_source(images)
    if isinstance(images, tf.data.Dataset):
        spec = images.element_spec
        shape = (spec[0] if isinstance(spec, tuple) else spec).shape
        if isinstance(spec, tuple) and not _is_label(spec[1:]):
            raise UsageError(f"The second part of an element must be an integer label. Received: {spec[1:]}")
        alone = images.map(lambda image, *_: image)
        network_size, size = choose_sizes(config, score, shape, alone)
        if score == "image":
            warn_of_lost_detail(alone.take(SAMPLE).as_numpy_iterator(), size)
        images, read_labels = read_images(images, size, resize=config.resize, room=room)
        labels = labels if read_labels is None else read_labels
    elif isinstance(images, Files):
        images, network_size = _collect_files(images, config, score, room)
    else:
        network_size, size = choose_sizes(config, score, images.shape[1:])
        if score == "image":
            warn_of_lost_detail(images, size)
        images = resize(images, size, config.resize, room)
    if len(images) < 2:
        raise UsageError(f"Training needs at least two normal images. Received: {len(images)}")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            raise UsageError(
                f"{len(images)} images need as many integer labels. Received: {labels.dtype} {labels.shape}"
            )
    return images, labels, network_size


def _collect_files(files: Files, config: DataConfig, score: str, room: Room):
    """Return the images of files at one size, and the side of the network's input, see `collect`."""
    with jpeg_warnings.heard(quiet=True):  # a damaged image is reported later, by name
        network_size, size = choose_sizes(config, score, (None, None, 3), image_files.read(files))
    images, _ = room.hold(FileReading(files, size, config.resize))
    if score == "image":
        warn_of_lost_detail(image_files.read(files[:SAMPLE]).as_numpy_iterator(), size)
    return images, network_size


class _Resizing(Reading):
    """One pass over images uint8 [n, h, w, c] that brings them to another size, see `Reading`."""

    def __init__(self, images, size: int, how: str):
        self._images, self.size, self._how = images, size, how
        self.count, self.unreadable = len(images), []
        own = images.key if isinstance(images, StoredImages) else ""
        self._key = store.key_of(own, size, how) if own else ""

    def batches(self) -> Generator:
        """See `Reading.batches`."""
        for batch in scoring_batches(self._images, 256, self.size, self._how):
            yield batch.numpy()


def resize(images, size: int, how: str = DataConfig.resize, room: Room | None = None):
    """Resize images uint8 [n, h, w, c] to uint8 [n, size, size, 3], see `views.prepare`; without a copy if they fit.

    Args:
      images: an array or `StoredImages`.
      size: side in pixels.
      how: what becomes of images that are not square.
      room: holds the result; by default with the limits of `RunConfig`.
    """
    if images.shape[1:] == (size, size, 3):
        return images
    return (room or Room()).hold(_Resizing(images, size, how))[0]


def _file_batches(files: Files, batch_size: int, size: int, resize: str) -> Iterator:
    """Yield the images of files in batches, see `scoring_batches`; some batches are decoded together."""
    together = batch_size * max(1, _BYTES // (3 * size**2 * batch_size))
    for first in range(0, len(files), together):
        reading = FileReading(files[first : first + together], size, resize)
        images = np.concatenate(list(reading.batches()))
        reading.check()
        for start in range(0, len(images), batch_size):
            yield tf.constant(images[start : start + batch_size])


def _is_label(rest) -> bool:
    label = rest[0] if len(rest) == 1 else None
    return isinstance(label, tf.TensorSpec) and label.shape.rank == 0 and label.dtype.is_integer


def hold_out(labels, config: DataConfig, needed: int = 1) -> np.ndarray:
    """Select a seeded share of the images, which sets the threshold and is not trained on.

    Args:
      labels: int [n], with n at least 2.
      config: `calibration_fraction`, the share of every class, and `seed`.
      needed: the number of images that the pass rate needs, see `calibration.images_needed`. If the share has fewer, it
        grows to as many, but to no more than half of a class.

    Returns:
      bool [n], at least one of them true if a class has two images.
    """
    held = np.zeros(len(labels), bool)
    rng = np.random.default_rng([config.seed, *b"held out"])  # a stream that no caller shuffles with
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        count = len(indices)
        share = max(
            round(count * config.calibration_fraction), min(math.ceil(count * needed / len(labels)), count // 2)
        )
        held[indices[: min(share, count - 1)]] = True
    return held


def scoring_batches(images, batch_size: int, size: int, resize: str = DataConfig.resize) -> Iterator:
    """Yield batches at one size, in order.

    Args:
      images: see `as_source`.
      batch_size: maximum number of images per batch.
      size: side s in pixels.
      resize: what becomes of images that are not square, see `views.prepare`.

    Yields:
      uint8 [at most batch_size, s, s, 3].

    Raises:
      UsageError: these are no images, or a file cannot be decoded.
    """
    images = as_source(images)
    if isinstance(images, Files):
        yield from _file_batches(images, batch_size, size, resize)
        return
    if isinstance(images, tf.data.Dataset):

        def image_alone(image, *_):
            return views.prepare(image[None], size, resize)[0]

        prepared = images.map(image_alone, tf.data.AUTOTUNE, deterministic=True)
        yield from prepared.batch(batch_size).prefetch(2)
        return
    for start in range(0, len(images), batch_size):
        # Resized here, so that the network's graph gets one shape, whatever the channels.
        yield views.prepare(tf.constant(images[start : start + batch_size]), size, resize)
