"""The rows of a table: means, standard deviations, the worst row, and runs without a result."""

import numpy as np
import pytest

from mcl_tf.tables.plans import Row
from mcl_tf.tables.summary import Results, make_ablation, make_table, of_ensembles, of_run

A, B = Row("a", ("a",), "a"), Row("b|c", ("b|c",), "b")


def table(**by_row):
    results = {A: Results(), B: Results()}
    for row, values in zip(results, by_row.values(), strict=True):
        for seed, value in enumerate(values):
            if value is None:
                results[row].failed[seed] = "It collapsed"
            else:
                results[row].add(seed, {"one_view": value - 0.1, "self_ensemble": value})
    return make_table("title", {"dataset": "d"}, results)


def test_means_and_deviations_over_seeds():
    found = table(a=[0.8, 0.9, 0.7], b=[0.5, 0.6, 0.7])
    record = found.record
    assert record["dataset"] == "d"
    first, second = (row["self_ensemble"] for row in record["rows"])
    assert first == {
        "mean": pytest.approx(0.8),
        "std": pytest.approx(0.1),
        "by_seed": {"0": 0.8, "1": 0.9, "2": 0.7},
    }
    assert second["std"] == pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1))
    mean = record["mean"]["self_ensemble"]
    assert mean["mean"] == pytest.approx(0.7)
    assert mean["std"] == pytest.approx(np.std([0.65, 0.75, 0.7], ddof=1))  # of the means over the rows
    assert record["worst"] == "b|c"
    assert found.columns == (
        "normal",
        *("AUROC, one view", "AUROC, one view, std"),
        *("AUROC, SEI", "AUROC, SEI, std"),
        "note",
    )
    assert [row[-1] for row in found.rows] == [None, "worst", None]
    assert found.rows[-1][0] == "mean"


def test_one_seed_has_no_deviation():
    found = table(a=[0.8], b=[0.9])
    assert found.rows[0] == ("a", pytest.approx(0.7), 0.8, "worst")
    assert found.record["mean"]["self_ensemble"] == {"mean": pytest.approx(0.85), "std": None, "rows": 2}


def test_runs_without_a_result_are_noted():
    found = table(a=[0.8, 0.9], b=[None, 0.7])
    assert found.record["rows"][1]["failed"] == {"0": "It collapsed"}
    assert found.rows[1][-1] == "worst; seed 0: It collapsed"
    assert found.record["mean"]["self_ensemble"]["std"] is None  # one seed is shared
    nothing = table(a=[0.8], b=[None])
    assert nothing.rows[1] == ("b|c", None, None, "seed 0: It collapsed")
    assert nothing.record["worst"] == "a"
    assert nothing.rows[0][-1] is None  # a single row is not called the worst
    assert table(a=[None], b=[None]).rows[-1] == ("mean", None)


def test_an_ablation_has_the_means_of_every_variant():
    rows = [
        Row(name, (name,), name, variant, (("spa_weight", 0.0),)) for variant in ("first", "second") for name in "ab"
    ]
    results = {row: Results() for row in rows}
    for index, found in enumerate(results.values()):
        for seed in (0, 1):
            areas = {"weighted": 0.1 * index + 0.2 * seed, "sum": 0.5, "min": 0.6}
            by_views = {views: {name: area + int(views) / 100 for name, area in areas.items()} for views in "148"}
            found.add(seed, of_ensembles({"ensembles": {**by_views, "2": {}}}))
    results[rows[3]] = Results(failed={0: "It collapsed", 1: "So did it"})
    found = make_ablation("title", {"dataset": "d"}, results)
    headings = [heading for method in ("weighted", "sum", "min") for heading in (method, f"{method}, std")]
    assert found.columns == ("training", "views", *headings, "note")
    assert [row[:2] for row in found.rows] == [(name, views) for name in ("first", "second") for views in (1, 4, 8)]
    deviation = np.std([0.05, 0.25], ddof=1)  # of the means over both rows
    assert found.rows[1][2:] == pytest.approx((0.19, deviation, 0.54, 0.0, 0.64, 0.0, None))
    assert found.rows[3][2] == pytest.approx(0.31)  # of the row that has results
    assert found.rows[3][-1] == "b, seed 0: It collapsed; seed 1: So did it"
    first, second = found.record["variants"]
    assert (first["name"], first["options"]) == ("first", {"spa_weight": 0.0})
    assert [row["name"] for row in second["rows"]] == ["a", "b"]
    assert first["mean"]["min_8"]["mean"] == pytest.approx(0.68)


def test_a_variant_without_results_has_one_line():
    found = make_ablation("title", {}, {Row("a", ("a",), "a", "first"): Results(failed={2: "It collapsed"})})
    assert found.rows == (("first", None, None, None, None, "a, seed 2: It collapsed"),)


def test_the_measures_of_a_run():
    report = {"one_view": {"auroc": 0.6, "aupr_normal": 0.1}, "self_ensemble": {"auroc": 0.7}, "accuracy": 0.8}
    expected = {"one_view": 0.6, "self_ensemble": 0.7, "accuracy": 0.8, "knn_pixels": 0.9}
    assert of_run(report, {"knn_pixels": 0.9}) == expected
