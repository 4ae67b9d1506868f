"""The datasets whose test images are anomalies: `anomaly_dataset` names one or several, separated by commas."""

from __future__ import annotations

import os

from mcl_tf import views
from mcl_tf.config import DataConfig
from mcl_tf.data import synthetic
from mcl_tf.data.source import Source
from mcl_tf.errors import UsageError

UNRESIZED_SUFFIX = f"+{views.UNRESIZED}"


class UnresizedSource(Source):
    """The images of a dataset at their own resolution: their central parts, mirrored beyond the edges of small ones.

    A detector can tell images of another size by the traces of resizing alone. Here there are none.

    Args:
      source: the dataset.
    """

    def __init__(self, source: Source):
        super().__init__(source.name + UNRESIZED_SUFFIX, source.class_names, source.image_shape)
        self._source = source

    def read(self, split, classes=None):
        """See `Source.read`."""
        return self._source.read(split, classes)

    def files(self, split, classes=None):
        """See `Source.files`."""
        return self._source.files(split, classes)

    def names(self, split, classes=None):
        """See `Source.names`."""
        return self._source.names(split, classes)

    def divide(self, normal, seed, has_anomalies):
        """See `Source.divide`."""
        self._source.divide(normal, seed, has_anomalies)

    def prepared(self, split, classes, size, resize):
        """See `Source.prepared`."""
        return self._source.prepared(split, classes, size, views.UNRESIZED)

    def hold(self, split, classes, size, resize, *arguments, **options):
        """See `Source.hold`."""
        return self._source.hold(split, classes, size, views.UNRESIZED, *arguments, **options)


def outlier_names(text: str) -> list[str]:
    """Return the names that `anomaly_dataset` has.

    Args:
      text: names separated by commas. The path of a folder that exists is one name, whatever it contains.

    Raises:
      UsageError: a name is empty or given twice.
    """
    if not text or os.path.exists(text):
        return [text] if text else []
    names = [os.path.expanduser(name.strip()) for name in text.split(",")]
    if not all(names):
        raise UsageError(f"anomaly_dataset must name datasets, separated by commas. Received: {text}")
    if len(set(names)) < len(names):
        raise UsageError(f"anomaly_dataset names a dataset twice. Received: {text}")
    return names


def open_outliers(names, source: Source, normal, size: int, config: DataConfig, load) -> list[Source]:
    """Open datasets of anomalies.

    Their images become those of the network's input, whatever their size and channels: grey is repeated, alpha is
    dropped. With `UNRESIZED_SUFFIX` after its name, a dataset keeps its resolution, see `UnresizedSource`.

    Args:
      names: names of `synthetic.NAMES`, or of datasets.
      source: the dataset of the normal images, divided already.
      normal: numbers of the normal classes.
      size: side in pixels of the stored images.
      config: `seed` and `resize`.
      load: function name -> source.

    Raises:
      UsageError: one of them is unknown or not available, or there are too few normal test images for a synthetic one.
    """
    opened: list[Source] = []
    for name in names:
        if name in synthetic.NAMES:
            channels = 1 if source.image_shape[-1] == 1 else 3
            normal_test = source.prepared("test", normal, size, config.resize)
            opened.append(synthetic.SyntheticSource(name, normal_test, channels, config.seed))
        else:
            opened.append(_open_dataset(name, load))
            opened[-1].divide([], config.seed, True)
    return opened


def loader_of_outliers(load, data_dir: str):
    """Return the function name -> source of `open_outliers`; `load` opens any dataset, see `load_source`."""
    return lambda name: load(name, data_dir, ("test",), synthetic.NAMES)


def check_outliers(names, load) -> None:
    """Check that datasets of anomalies can be opened; for the arguments and errors see `open_outliers`."""
    for name in names:
        if name not in synthetic.NAMES:
            _open_dataset(name, load)


def _open_dataset(name: str, load) -> Source:
    stored = name.removesuffix(UNRESIZED_SUFFIX)
    if stored in synthetic.NAMES:
        raise UsageError(f"Synthetic images have the network's size and are never resized. Received: {name}")
    return UnresizedSource(load(stored)) if name.endswith(UNRESIZED_SUFFIX) else load(stored)
