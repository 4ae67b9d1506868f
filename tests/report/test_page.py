"""The whole page: what it says, hostile names, no network, and its slider in a browser."""

import base64
import hashlib
import html.parser
import json
import types

import numpy as np
import pytest

from mcl_tf import calibration, experiment, scored_test
from mcl_tf.detector import AnomalyDetector
from mcl_tf.explanation import heat_map
from mcl_tf.report import page, sheets
from tests.browser import MISSING, browser
from tests.helpers import tinted_images

HOSTILE = '<script>document.title="owned"</script>/"><img src=x onerror=alert(1)>\u202e.png'
COUNT = 30


@pytest.fixture(scope="module")
def detector():
    """A detector with a local score, of noise at 16x16 pixels."""
    return AnomalyDetector(score="local", epochs=0, dataset="a <b> folder").fit(tinted_images(30)[0])


def make_scored(detector, kinds):
    """Test scores around the threshold; every third image is an anomaly if there are two kinds."""
    rng = np.random.default_rng(4)
    is_anomaly = (np.arange(COUNT) % 3 == 0) & (kinds == 2)
    scores = np.float32(detector.threshold_ + rng.normal(-1.0, 1.0, COUNT) + 1.5 * is_anomaly)
    scores[1], scores[2] = detector.threshold_, scores.max() + 1  # one at the threshold passes; the highest is shown
    names = np.array([HOSTILE if index == 2 else f"test/{index}.png" for index in range(COUNT)])
    labels = np.where(is_anomaly, "</script><b>cut", "good")
    return scored_test.TestScores(names, labels, is_anomaly, scores - 0.1, scores)


def make_page(detector, folder, kinds, parts=()):
    """Write a page; return its path, the scores and the report."""
    scored = make_scored(detector, kinds)
    task = types.SimpleNamespace(
        test_parts=parts, class_names=("good",), train=np.zeros(30), test=None if kinds == 1 else ()
    )
    report = experiment.make_report(detector, task, scored)
    images = dict(enumerate(tinted_images(COUNT)[0]))
    page.write_page(folder / "report.html", detector, report, scored, images, 75.0)
    return folder / "report.html", scored, report


@pytest.fixture(scope="module", params=[1, 2], ids=["normal images alone", "both kinds"])
def written(request, detector, tmp_path_factory):
    """(path, scores, report) of a page."""
    return make_page(detector, tmp_path_factory.mktemp("page"), request.param)


class Reader(html.parser.HTMLParser):
    """Collects the elements, the visible text and the contents of scripts of a page."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.scripts, self._inside = [], "", [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data

    def all(self, tag):
        """Return the attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def test_the_page_says_what_the_metrics_say(written):
    path, scored, report = written
    text = " ".join(Reader(path).text.replace("\N{NO-BREAK SPACE}", " ").split())
    flagged = np.sum(scored.scores[~scored.is_anomaly] > report["threshold"])
    normals = np.sum(~scored.is_anomaly)
    assert report["at_threshold"]["normals_flagged"] == flagged / normals
    assert f"flags {100 * flagged / normals:.1f} % ({flagged} of {normals}) of the normal images" in text
    assert "time of the fit" in text
    assert "75 s" in text
    if scored.is_anomaly.any():
        part = report["self_ensemble"]
        interval = f"{part['auroc']:.4f} (95 % interval {part['auroc_low']:.4f} to {part['auroc_high']:.4f})"
        assert f"with a probability (AUROC) of {interval}. At its threshold" in text
        found = np.sum(scored.scores[scored.is_anomaly] > report["threshold"])
        assert f"it finds {100 * found / 10:.1f} % ({found} of 10) of the anomalies" in text
        assert f"</script><b>cut{part['auroc']:.4f}{part['auroc_low']:.3f} to" in text  # cells of a row
    else:
        assert "so that there is no AUROC" in text
        assert "of the normal images that were held out from training" in text
        assert "ROC curve" not in path.read_text(encoding="utf-8")


def test_every_dataset_of_anomalies_has_a_row(detector, tmp_path):
    path, _, report = make_page(detector, tmp_path, 2, [("own", 12), ("x<i>", 9), ("y", 9)])
    text = "".join(Reader(path).text.split())
    for row, name in zip(report["outliers"], ("otherclasses", "x<i>", "y"), strict=True):
        assert f"{name}{row['anomalies']}{row['one_view']['auroc']:.4f}{row['self_ensemble']['auroc']:.4f}" in text


def test_names_are_text_and_nothing_is_fetched(written):
    path, scored, _ = written
    reader = Reader(path)
    assert HOSTILE in reader.text
    assert "a <b> folder" in reader.text
    assert [attributes.get("type") for attributes in reader.all("script")] == ["application/json", None]
    assert {attributes["src"][:11] for attributes in reader.all("img")} == {"data:image/"}
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in reader.elements}
    assert len([tag for tag, _ in reader.elements if tag == "b"]) > 3  # our own
    policy = next(attributes["content"] for attributes in reader.all("meta") if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert path.stat().st_size < 200_000


def test_every_image_has_its_text_heat_map_and_p_value(written, detector):
    path, scored, _ = written
    reader = Reader(path)
    rows = sheets.sheet_indices(scored.is_anomaly, scored.scores)
    shown = [int(index) for row in rows.values() for index in row]
    assert len(shown) == (24 if scored.is_anomaly.any() else 16)
    pictures = [attributes for attributes in reader.all("img") if attributes.get("class") == "pixels"]
    described = [f"{scored.names[i]}, class {scored.labels[i]}, score {scored.scores[i]:.4g}" for i in shown]
    assert [attributes["alt"] for attributes in pictures[::2]] == described
    assert [attributes["alt"] for attributes in pictures[1::2]] == [f"Heat map of {scored.names[i]}" for i in shown]
    images = {index: image for index, image in enumerate(tinted_images(COUNT)[0]) if index in shown}
    heat = sheets.heat_maps(detector.scorer_, images)
    np.testing.assert_allclose(heat[shown[3]], heat_map(detector.scorer_, images[shown[3]][None])[0], atol=1e-4)
    p_values = calibration.p_values(detector.calibration_scores_, scored.scores)
    text = " ".join(reader.text.split())
    for index in shown:
        assert f"score {scored.scores[index]:.4g}, p {p_values[index]:.2g}: " in text


def test_the_browser_runs_our_script_alone(written):
    reader = Reader(written[0])
    policy = next(attributes["content"] for attributes in reader.all("meta") if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(reader.scripts[-1].encode()).digest()).decode()
    assert policy.endswith(f"script-src 'sha256-{digest}'")


SHOWN = """
const text = (id) => document.getElementById(id) && document.getElementById(id).textContent;
const place = (id) => document.getElementById(id) && [document.getElementById(id).style.left,
  document.getElementById(id).style.bottom, document.getElementById(id).style.display];
return {threshold: text("threshold"), flagged: text("flagged"), missed: text("missed"), precision: text("precision"),
  whose: text("whose"), roc: place("roc-point"), title: document.title,
  disabled: document.getElementById("reset").disabled,
  verdicts: Array.from(document.querySelectorAll("figure b")).map((e) => e.textContent)};
"""
MOVE = """
const slider = document.getElementById("slider");
slider.value = arguments[0];
slider.dispatchEvent(new Event("input"));
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_the_slider_shows_the_rates_of_numpy(detector, tmp_path):
    pages = []
    for kinds in (1, 2):
        (tmp_path / str(kinds)).mkdir()
        pages.append(make_page(detector, tmp_path / str(kinds), kinds))
    with browser(tmp_path / "profile") as tab:
        for path, scored, report in pages:
            tab.open(path)
            counts = json.loads(Reader(path).scripts[0])
            own = tab.run(SHOWN)
            assert (own["whose"], own["disabled"]) == ("of the detector", True)
            assert own["threshold"] == f"{report['threshold']:.{counts['decimals']}f}"
            _check_rates(own, scored, report["threshold"])
            for index in (0, 250, counts["own"] + 1, 700, len(counts["thresholds"]) - 1):
                tab.run(MOVE, index)
                shown = tab.run(SHOWN)
                assert (shown["whose"], shown["disabled"]) == ("chosen by hand", False)
                # What the page shows is all that a person knows.
                _check_rates(shown, scored, float(shown["threshold"]))
            tab.run('document.getElementById("reset").click()')
            assert tab.run(SHOWN) == own
            assert own["title"].endswith("normal: good")  # which the script in a name would have changed
            assert tab.log() == []


def _check_rates(shown, scored, threshold):
    """Compare what a page shows with the shares of scores above a threshold."""
    above, is_anomaly = scored.scores.astype(float) > threshold, scored.is_anomaly
    normal, found, flagged = np.sum(above & ~is_anomaly), np.sum(above & is_anomaly), np.sum(above)
    assert _parsed(shown["flagged"]) == (normal, np.sum(~is_anomaly))
    rows = sheets.sheet_indices(is_anomaly, scored.scores)
    expected = ["flagged" if above[index] else "passed" for row in rows.values() for index in row]
    assert shown["verdicts"] == expected
    if not is_anomaly.any():
        assert shown["missed"] is shown["roc"] is None
        return
    assert _parsed(shown["missed"]) == (10 - found, 10)
    assert _parsed(shown["precision"]) == (found, flagged)
    left, bottom, _ = shown["roc"]
    assert float(left.rstrip("%")) == pytest.approx(100 * normal / 20, abs=0.01)
    assert float(bottom.rstrip("%")) == pytest.approx(100 * found / 10, abs=0.01)


def _parsed(text):
    """Return the numbers of "15.3 % (9 of 59)", whose percentage must be theirs."""
    percentage, counts = text.replace("\N{NO-BREAK SPACE}", " ").rstrip(")").split(" (")
    count, total = (int(number.replace(",", "")) for number in counts.split(" of "))
    if total:
        assert abs(float(percentage.removesuffix(" %")) - 100 * count / total) <= 0.05 + 1e-9
    else:
        assert percentage == "–"
    return count, total
