"""Precision and recall of an evaluation, and what is shown without anomalies."""

import numpy as np
import pytest
from sklearn import metrics

from mcl_tf import scored_test
from mcl_tf.summaries import scores
from mcl_tf.summaries.event_file import EventFile
from tests.summaries.events import read_curves, read_summaries


def test_precision_and_recall_are_those_of_scikit_learn(rng):
    is_anomaly = rng.random(500) < 0.3
    values = np.round(rng.normal(size=500) + is_anomaly, 2)  # some are equal
    found, flagged, passed, missed, precision, recall = scores.precision_recall(is_anomaly, values)
    expected = metrics.precision_recall_curve(is_anomaly, values)
    by_level = {level: pair for *pair, level in zip(*(part[: len(expected[2])] for part in expected), strict=True)}
    levels = [np.sort(values)[np.ceil(share * 499 - 1e-9).astype(int)] for share in np.linspace(0, 1, 101)]
    np.testing.assert_allclose(np.stack([precision, recall], 1), [by_level[level] for level in levels])
    np.testing.assert_array_equal(found + missed, is_anomaly.sum())
    np.testing.assert_array_equal(flagged + passed, (~is_anomaly).sum())
    assert (recall[0], precision[0]) == (1.0, is_anomaly.mean())  # the lowest threshold flags all


@pytest.mark.parametrize("anomalies", [0, 3])
def test_nothing_is_written_about_anomalies_that_are_not_there(anomalies, tmp_path):
    is_anomaly, names = np.arange(6) < anomalies, np.arange(6).astype(str)
    file = EventFile(tmp_path)
    values = np.linspace(1.0, 0.0, 6, dtype=np.float32)
    scores.write_scores(file, 5, scored_test.TestScores(names, names, is_anomaly, values, values), {"flagged": 0.25})
    file.close()
    curves = read_curves(tmp_path)
    assert curves.pop("threshold/flagged") == [(5, 0.25)]
    if anomalies:
        expected = {"auroc_one_view": 1.0, "auroc_sei": 1.0, "average_precision_sei": 1.0, "fpr_at_95_tpr_sei": 0.0}
        assert curves == {f"quality/{name}": [(5, value)] for name, value in expected.items()}
        assert set(read_summaries(tmp_path, "pr_curves")) == {"anomalies/one_view/pr_curves", "anomalies/sei/pr_curves"}
        assert set(read_summaries(tmp_path, "histograms")) == {"scores/normal", "scores/anomalous"}
    else:
        assert curves == {}
        assert read_summaries(tmp_path, "pr_curves") == {}
        assert set(read_summaries(tmp_path, "histograms")) == {"scores/normal"}
