"""Shapes and places of the figures."""

import re

import numpy as np

from mcl_tf.report import figures, rates

IS_ANOMALY, SCORES = np.array([0, 0, 0, 1, 1], bool), np.array([1.0, 2.0, 4.0, 3.0, 5.0])
AXIS = rates.make_axis(IS_ANOMALY, SCORES, 2.5)
COUNTED = rates.count_above(IS_ANOMALY, SCORES, 2.5, AXIS)


def test_blocks_of_a_histogram_by_hand():
    # Four bins of 250 units, the second one empty; y points downwards.
    path = figures._steps(np.array([0.5, 0.0, 1.0, 0.25]))
    first = "M0 1000L0 500L250 500L250 1000Z"
    assert path == first + "M500 1000L500 0L750 0L750 750L1000 750L1000 1000Z"
    assert figures._steps(np.zeros(4)) == ""


def test_the_lines_of_the_histogram_are_at_the_threshold():
    drawn = figures.histogram(IS_ANOMALY, SCORES, AXIS, COUNTED)
    places = [float(place) for place in re.findall(r'class="line[^>]*left:([\d.]+)%', drawn)]
    # From 1 to 5 with a margin of 2 %, 2.5 is at (1.5 + 0.08) / 4.16.
    np.testing.assert_allclose(places, [100 * 1.58 / 4.16] * 2, atol=0.01)


def test_operating_points_by_hand():
    # Above 2.5 are one of three normal images and both anomalies.
    assert 'id="roc-point" style="left:33.33%;bottom:100.00%"' in figures.roc(IS_ANOMALY, -SCORES, SCORES, COUNTED)
    assert 'id="pr-point" style="left:100.00%;bottom:66.67%"' in figures.precision_recall(IS_ANOMALY, SCORES, COUNTED)


def test_without_a_flagged_image_there_is_no_precision():
    axis = rates.make_axis(IS_ANOMALY, SCORES, 9.0)
    drawn = figures.precision_recall(IS_ANOMALY, SCORES, rates.count_above(IS_ANOMALY, SCORES, 9.0, axis))
    assert 'id="pr-point" style="display:none"' in drawn


def test_many_classes_are_folded_and_none_is_lost():
    rows = [
        {"class": f"<{index}>", "images": 1000 + index, "auroc": 0.5, "auroc_low": 0.25, "auroc_high": 0.75}
        for index in range(20)
    ]
    drawn = figures.class_bars(rows)
    shown, folded = drawn.split("<details><summary>5 more classes</summary>")
    assert re.findall(r"<bdi>&lt;(\d+)&gt;</bdi>", shown) == [str(index) for index in range(15)]
    assert re.findall(r"<bdi>&lt;(\d+)&gt;</bdi>", folded) == [str(index) for index in range(15, 20)]
    assert '<i style="width:50.00%"></i><b style="left:25.00%;width:50.00%"></b>' in shown
    assert "<td>0.250 to 0.750</td><td>1,019</td>" in folded
    assert "<details>" not in figures.class_bars(rows[:15])
