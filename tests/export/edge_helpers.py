"""What the tests of the files for other devices share."""

import numpy as np
import pytest

from mcl_tf.export import edge
from tests.helpers import mixed_images

IMAGES = mixed_images(30, 16, 16, 21)


def assert_answers_of_the_library(detector, images, answers, tolerance):
    """Check all outputs of a file against the library; a score within the tolerance of a limit may lie on either side.

    Args:
      detector: the detector.
      images: the images.
      answers: {output: array}.
      tolerance: the largest difference of two scores.
    """
    expected = detector.scorer_.evaluate_images(images)
    scores, held_out = expected["score"], detector.calibration_scores_
    assert set(answers) == set(edge.OUTPUTS)
    assert answers["score"] == pytest.approx(scores, rel=tolerance, abs=tolerance)
    assert np.array_equal(answers["nearest_class"], expected["nearest_class"])
    clear = np.abs(scores - detector.threshold_) > tolerance * np.abs(scores) + tolerance
    assert clear.any()
    assert np.array_equal(answers["is_anomaly"][clear], scores[clear] > detector.threshold_)
    p_values = (1 + np.sum(held_out >= answers["score"][:, None], axis=1)) / (1 + len(held_out))
    # Constants are float16 with such weights; p-values are 1 / (m + 1) apart.
    assert answers["p_value"] == pytest.approx(p_values, rel=1e-3)
