"""The page of a table: its sentences, its links, and hostile names."""

import html
import re

import pytest

from mcl_tf.tables import plans, summary, table_page
from mcl_tf.tables.plans import Row

HOSTILE = 'a/b <img src=x onerror="alert(1)">&?#'
VALUES = {"a": (0.5, 0.6), HOSTILE: (0.75, 0.85)}


def make(kind="classes", seeds=(0, 1), baselines=(), failed=False):
    """Return a table and its results, whose SEI is 0.1 above one view."""
    results = {}
    for name, by_seed in VALUES.items():
        found = results.setdefault(Row(name, (name,), plans._folder(name)), summary.Results())
        for seed, value in zip(seeds, by_seed, strict=False):
            if failed:
                found.failed[seed] = "it <b>collapsed"
            else:
                others = dict.fromkeys(baselines, value - 0.2)
                found.add(seed, {"one_view": value - 0.1, "self_ensemble": value, **others})
    return summary.make_table("title <b>", {"table": kind, "seeds": list(seeds)}, results), results


def write(directory, table, results):
    """Write a page; return its HTML and its visible text."""
    table_page.write_page(directory, table, results)
    source = (directory / "report.html").read_text(encoding="utf-8")
    visible = re.sub(r"<[^>]*>", "", re.sub(r"<style>.*?</style>", "", source, flags=re.S))
    return source, html.unescape(" ".join(visible.split()))


def test_says_the_mean_and_the_worst(tmp_path):
    _, text = write(tmp_path, *make(baselines=["knn_pixels", "iforest_embedding"]))
    assert "probability (AUROC) of 0.6750 ± 0.0707, the mean over 2 classes" in text
    assert "With one view, it is 0.5750 ± 0.0707. The worst class is a with 0.5500." in text
    assert "The best of the baselines, nearest neighbours on pixels, has 0.4750 ± 0.0707." in text
    assert "± is the standard deviation over the seeds 0, 1." in text


def test_one_seed_has_no_deviation(tmp_path):
    _, text = write(tmp_path, *make("splits", seeds=[4]))
    assert "of 0.6250, the mean over 2 splits" in text
    assert "All runs have the seed 4." in text
    assert "±" not in text


def test_links_to_the_pages_that_are_there(tmp_path):
    """Relative ones, so that the folder can be moved; names of folders are quoted."""
    table, results = make()
    for row in results:
        run = tmp_path / row.folder / "seed-1"
        run.mkdir(parents=True)
        (run / "report.html").touch()
    source, text = write(tmp_path, table, results)
    links = [html.unescape(link) for link in re.findall('href="(.*?)"', source)]
    assert links == [
        "a/seed-1/report.html",
        "a%252Fb%20%3Cimg%20src%3Dx%20onerror%3D%22alert%281%29%22%3E%26%3F%23/seed-1/report.html",
    ]
    assert "a: seed 0, seed 1" in text


def test_names_and_reasons_are_text(tmp_path):
    source, text = write(tmp_path, *make())
    assert "<img" not in source
    assert "<title>title &lt;b&gt;</title>" in source
    assert HOSTILE in text
    source, text = write(tmp_path, *make(failed=True))
    assert "it &lt;b&gt;collapsed" in source
    assert "No run has a result." in text


@pytest.mark.parametrize(("views", "how"), [("1", "with one view."), ("8", "with 8 views and the method mean.")])
def test_an_ablation_says_the_best_training(views, how, tmp_path):
    results = {}
    for variant, base in (("CCM", 0.5), ("NT-Xent", 0.6)):
        found = results.setdefault(Row("0", ("0",), variant, variant), summary.Results())
        keys = [f"{method}_{number}" for number in (1, 4, 8) for method in ("weighted", "mean", "min")]
        found.add(0, {key: base + 0.1 * (key == f"mean_{views}") for key in keys})
    table = summary.make_ablation("title", {"table": "ablation", "seeds": [0]}, results)
    _, text = write(tmp_path, table, results)
    assert f"The highest mean AUROC, 0.7000, is that of the training NT-Xent {how}" in text
