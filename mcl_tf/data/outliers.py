"""The datasets whose test images are anomalies: `anomaly_dataset` names one or several, separated by commas."""

from __future__ import annotations

import os

from mcl_tf.config import DataConfig
from mcl_tf.data import synthetic
from mcl_tf.data.source import Source
from mcl_tf.errors import UsageError


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
    dropped.

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
            opened.append(load(name))
            opened[-1].divide([], config.seed, True)
    return opened
