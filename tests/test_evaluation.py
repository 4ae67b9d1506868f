"""Metrics computed by hand, the table of scores and the report."""

import csv

import matplotlib
import numpy as np
import pytest

from mcl_tf import evaluation


def test_metrics_by_hand():
    # From high to low: anomaly 3, normal 2, anomaly 1, normal 0.
    # AUROC: of the pairs (anomaly, normal), 3 > 2, 3 > 0 and 1 > 0 are in order, 1 < 2 is not: 3/4.
    # Average precision of anomalies: recall 1/2 at precision 1, the other half at 2/3: 1/2 + 1/3 = 5/6.
    # Average precision of normals, from low to high: recall 1/2 at precision 1, the other half at 2/3: also 5/6.
    # The threshold that finds both anomalies is 1, which flags one of two normals: 1/2.
    # The shares of normals below an anomaly are 1 and 1/2, those of anomalies above a normal 1/2 and 1: the variance is
    # 1/8 / 2 + 1/8 / 2 = 1/8. The interval is that many standard errors around the logit, whose slope is 16/3.
    reach = 1.959964 * np.sqrt(1 / 8) * 16 / 3
    found = evaluation.compute_metrics([True, False, True, False], [3.0, 2.0, 1.0, 0.0])
    interval = {"auroc_low": 1 / (1 + np.exp(reach) / 3), "auroc_high": 1 / (1 + np.exp(-reach) / 3)}
    rest = {"auroc": 3 / 4, "aupr_anomaly": 5 / 6, "aupr_normal": 5 / 6, "fpr_at_95_tpr": 1 / 2}
    assert found == pytest.approx({**rest, **interval})
    low, high = interval.values()
    assert evaluation.auroc_text(found) == f"0.7500 (95 % interval {low:.4f} to {high:.4f})"


def test_metrics_of_unequal_groups_by_hand():
    # From high to low: normal 9, anomaly 8, normals 7 and 6.
    # AUROC: the anomaly is above two of three normals: 2/3. Average precision: it is found second, 1/2.
    # Normals from low to high: 6 and 7 at precision 1, 9 as fourth at 3/4: (1 + 1 + 3/4) / 3 = 11/12.
    # Finding the anomaly flags one of three normals: 1/3. A single anomaly says nothing about others.
    found = evaluation.compute_metrics([0, 0, 1, 0], np.array([7, 9, 8, 6], np.float32))
    areas = {"auroc": 2 / 3, "auroc_low": 0.0, "auroc_high": 1.0, "aupr_anomaly": 1 / 2, "aupr_normal": 11 / 12}
    assert found == pytest.approx({**areas, "fpr_at_95_tpr": 1 / 3})


def test_the_metrics_of_every_class_begin_with_the_worst():
    # From high to low: cut 9 and 8, normal 7, hole 6, normal 5. A normal image has the label of an anomalous class.
    labels, is_anomaly = ["cut", "cut", "good", "hole", "cut"], [1, 1, 0, 1, 0]
    found = evaluation.class_metrics(is_anomaly, labels, np.float32([9, 8, 7, 6, 5]))
    # Two pairs in order: the lower end is the probability at which both are in order in 2.5 % of cases.
    assert found == [
        {"class": "hole", "images": 1, "auroc": 0.5, "auroc_low": 0.0, "auroc_high": 1.0},
        {"class": "cut", "images": 2, "auroc": 1.0, "auroc_low": pytest.approx(0.025**0.5), "auroc_high": 1.0},
    ]


@pytest.mark.parametrize(("sign", "auroc", "false_positives"), [(1.0, 1.0, 0.0), (-1.0, 0.0, 1.0)])
def test_metrics_of_perfect_and_reversed_scores(sign, auroc, false_positives):
    is_anomaly = np.arange(30) % 3 == 0
    found = evaluation.compute_metrics(is_anomaly, sign * (is_anomaly + np.linspace(0, 0.5, 30)))
    assert found["auroc"] == auroc
    assert found["fpr_at_95_tpr"] == false_positives
    if sign > 0:
        assert found == pytest.approx({**found, "aupr_anomaly": 1.0, "aupr_normal": 1.0})


def test_metrics_of_equal_scores():
    # With ties only, every pair counts half, the precision is the share of the positives, and a threshold flags all.
    found = evaluation.compute_metrics([True, False, False, False], [0.5] * 4)
    areas = {"auroc": 0.5, "auroc_low": 0.0, "auroc_high": 1.0, "aupr_anomaly": 0.25, "aupr_normal": 0.75}
    assert found == pytest.approx({**areas, "fpr_at_95_tpr": 1.0})


@pytest.mark.parametrize(("below", "expected"), [(1, 0.0), (2, 1.0)])
def test_false_positive_rate_allows_5_percent_missed_anomalies(below, expected):
    # 20 anomalies, `below` of them below all normals: without the lowest one, 95 % are found and no normal is flagged.
    scores = [10.0 + i for i in range(20 - below)] + [-10.0 - i for i in range(below)] + [0.0, 1.0, 2.0]
    assert evaluation.compute_metrics([True] * 20 + [False] * 3, scores)["fpr_at_95_tpr"] == expected


def test_false_positive_rate_with_ties_of_normals_and_anomalies():
    # 20 scores, each of one anomaly and one normal: the threshold that finds 19 anomalies flags 19 of 20 normals.
    found = evaluation.compute_metrics([True, False] * 20, np.repeat(np.arange(20), 2))
    assert found["fpr_at_95_tpr"] == pytest.approx(0.95)


def test_write_scores_writes_csv(tmp_path):
    path = tmp_path / "scores.csv"
    evaluation.write_scores(
        path,
        ["digits/test/0", 'a "quoted", name'],
        ["0", "7"],
        np.array([False, True]),
        np.float32([1 / 3, 1234567]),
    )
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["id", "label", "is_anomaly", "score"],
        ["digits/test/0", "0", "0", "0.333333343"],
        ['a "quoted", name', "7", "1", "1234567"],
    ]
    # So that metrics of the table are those of the scores: no two become one, and none moves.
    np.testing.assert_array_equal(np.float32([row[3] for row in rows[1:]]), np.float32([1 / 3, 1234567]))


def test_write_scores_refuses_columns_of_unequal_length(tmp_path):
    with pytest.raises(ValueError, match="shorter|longer"):
        evaluation.write_scores(tmp_path / "scores.csv", ["a", "b"], ["0", "1"], [0, 1], [0.5])


def test_example_indices_by_hand():
    # From low to high scores: indices 3, 0, 2, 4, 1. Images 0 and 1 are anomalous.
    found = evaluation.example_indices([1, 1, 0, 0, 0], [2.0, 9.0, 3.0, 1.0, 4.0], count=2)
    assert {title: list(indices) for title, indices in found.items()} == {
        "lowest scores": [3, 0],
        "highest scores": [1, 4],
        "normal, scored highest": [4, 2],
        "anomalous, scored lowest": [0, 1],
    }


def test_example_indices_without_anomalies():
    found = evaluation.example_indices([0, 0, 0], [2.0, 9.0, 3.0], count=2)
    assert {title: list(indices) for title, indices in found.items()} == {
        "lowest scores": [0, 2],
        "highest scores": [1, 2],
    }


@pytest.mark.parametrize(
    ("threshold", "kind"),
    [(0.5, "usual"), (-9.0, "below-all"), (99.0, "above-all"), (1.0, "constant"), (0.5, "normal")],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # equal scores have no histogram
def test_plot_report_writes_a_png(tmp_path, rng, threshold, kind):
    is_anomaly = np.arange(40) % 4 == 0 if kind != "normal" else np.zeros(40, bool)
    scores = np.ones(40) if kind == "constant" else rng.normal(size=40) + is_anomaly
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    examples = {"lowest scores": [(image, "0")] * 3, "anomalous, scored lowest": [(image, "1")]}
    path = tmp_path / "report.png"
    evaluation.plot_report(path, "digits", is_anomaly, rng.normal(size=40), scores, threshold, examples)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000


NAMES = ["$x$", "a $ b $ c", "$\\frac{$", "a_b^c\\", "\\$", "%&#{}", "two\nlines", "\udcff", ""]


@pytest.mark.parametrize("tex", [False, True])
def test_names_are_never_mathematics(tex, tmp_path, rng, monkeypatch):
    """Whatever the settings of the user say."""
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", tex)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path, is_anomaly = tmp_path / "report.png", np.arange(40) % 4 == 0
    examples = {"lowest scores": [(image, name) for name in NAMES]}
    monkeypatch.setattr(evaluation, "_plot_histogram", lambda *args: None)  # takes the most time
    evaluation.plot_report(path, " ".join(NAMES), is_anomaly, rng.normal(size=40), rng.normal(size=40), 0.5, examples)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert matplotlib.rcParams["text.usetex"] == tex
