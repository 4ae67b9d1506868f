"""Draws the result of a run: a picture, `report.png`, and a page, `report.html`."""

from __future__ import annotations

import contextlib
import logging
import pathlib

import numpy as np
import tensorflow as tf

from mcl_tf import evaluation, run_directory
from mcl_tf.errors import one_line
from mcl_tf.report.page import write_page
from mcl_tf.report.sheets import sheet_indices

_BATCH = 64  # images; one by one, they take ten times as long
_logger = logging.getLogger(__name__)


def draw_report(
    detector, test: tf.data.Dataset, test_scores, report: dict, directory: pathlib.Path, seconds: float | None = None
) -> None:
    """Draw `report.png` and write `report.html`; log a warning if one cannot be, because no result depends on it.

    Args:
      detector: the fitted `AnomalyDetector`.
      test: the test stream, which is read once more.
      test_scores: its `TestScores`.
      report: the content of `metrics.json`.
      directory: the run directory.
      seconds: how long the fit took; None if it is not known.
    """
    picture, html = directory / run_directory.PICTURE, directory / run_directory.PAGE
    rows = evaluation.example_indices(test_scores.is_anomaly, test_scores.scores)
    with _without_loss(f"{picture} and {html}"):
        shown = [*rows.values(), *sheet_indices(test_scores.is_anomaly, test_scores.scores).values()]
        images = read_images(test, np.concatenate(shown))
        with _without_loss(picture):
            evaluation.plot_report(
                picture,
                f"{report['dataset']}, normal: {', '.join(report['normal'])}",
                test_scores.is_anomaly,
                test_scores.one_view,
                test_scores.scores,
                detector.threshold_,
                {title: [(images[int(i)], test_scores.labels[i]) for i in row] for title, row in rows.items()},
            )
        with _without_loss(html):
            write_page(html, detector, report, test_scores, images, seconds)


@contextlib.contextmanager
def _without_loss(name):
    """Context manager that logs a warning if something cannot be drawn."""
    try:
        yield
    except Exception as error:  # of matplotlib, its fonts or its settings, for example
        _logger.warning("%s could not be drawn: %s", name, one_line(error))


def read_images(test: tf.data.Dataset, indices) -> dict[int, np.ndarray]:
    """Return {index: image uint8 [s, s, 3]} of some images of a test stream, read in one pass."""
    wanted, images = np.unique(indices), {}
    batches = test.map(lambda image, *_: image).batch(_BATCH).as_numpy_iterator()
    for number, batch in enumerate(batches):
        start = number * _BATCH
        chosen = wanted[(wanted >= start) & (wanted < start + _BATCH)]
        images.update({int(index): batch[index - start].copy() for index in chosen})  # not the whole batch
    return images
