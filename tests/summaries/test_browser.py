"""TensorBoard in a headless browser: scalars, images, graph, projector and HParams of two runs really show."""

import json
import logging
import time
import urllib.request

import pytest

from tests.browser import MISSING, browser

# Collects all elements of a page, also those of shadow roots and frames.
EVERYTHING = """
const found = [];
(function walk(root) {
  for (const element of root.querySelectorAll('*')) {
    found.push(element);
    if (element.shadowRoot) walk(element.shadowRoot);
    if (element.tagName == 'IFRAME' && element.contentDocument) walk(element.contentDocument);
  }
})(document);
const visible = element => element.getClientRects().length > 0;
const texts = found.filter(e => !e.childElementCount && visible(e)).map(e => e.textContent.trim()).filter(Boolean);
"""


class Board:
    """An open TensorBoard."""

    def __init__(self, page, address):
        self.page, self.address = page, address

    def show(self, tab, script, is_there, seconds=90):
        """Open a tab and return the value of a script as soon as it is what is waited for."""
        self.page.visit("about:blank")  # or the page would not be loaded again
        self.page.visit(f"{self.address}#{tab}")
        end = time.monotonic() + seconds
        while not is_there(value := self.page.run(EVERYTHING + script)):
            assert time.monotonic() < end, f"{tab} shows {value}"
            time.sleep(0.5)
        return value


def wait_for_projector(address, seconds=60):
    """Wait until TensorBoard has found the embeddings, which it looks for on its own."""
    end = time.monotonic() + seconds
    while not json.load(urllib.request.urlopen(f"{address}data/plugins_listing"))["projector"]["enabled"]:
        assert time.monotonic() < end, "TensorBoard finds no embeddings"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def board(table, tmp_path_factory):
    """TensorBoard in this process, which has imported TensorFlow already, with the two runs of the table."""
    from tensorboard import program

    server = program.TensorBoard()
    server.configure(argv=[None, f"--logdir={table}", "--host=127.0.0.1", "--port=0"])
    levels = {name: logging.getLogger(name).level for name in ("werkzeug", "tensorboard")}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    address = server.launch()
    wait_for_projector(address)
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        page.command("Emulation.setDeviceMetricsOverride", width=1400, height=2000, deviceScaleFactor=1, mobile=False)
        yield Board(page, address)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_every_tab_shows_what_it_should(board):
    # Scalars: curves in groups.
    lines = "found.filter(e => e.matches('path.line') && (e.getAttribute('d') || '').length > 10).length"
    texts, curves = board.show("scalars", f"return [texts, {lines}]", lambda value: value[1] >= 4)
    assert {"loss", "quality", "similarity", "speed", "threshold", "training", "loss/total"} <= set(texts)

    images = "return found.filter(e => e.tagName == 'IMG' && visible(e)).map(e => [e.naturalWidth, e.naturalHeight])"
    assert board.show("images", images, lambda sizes: [152, 101] in sizes) == [[152, 101]]

    # The projector: points with thumbnails, coloured or labelled by any column.
    points = "return found.map(e => (e.innerText || '').trim()).filter(text => /^(Points|Dimension): /.test(text))"
    board.show("projector", points, lambda found: {"Points: 30", "Dimension: 30"} <= set(found))
    columns = "return found.filter(e => e.tagName == 'PAPER-ITEM').map(e => e.textContent.trim().split(/\\\\s/)[0])"
    assert {"label", "kind", "score", "verdict", "image"} <= set(board.page.run(EVERYTHING + columns))

    # HParams: a row per run, and its AUROC.
    rows = board.show("hparams", "return texts", lambda texts: sum("seed " in text for text in texts) >= 2)
    assert {"quality/auroc_one_view", "quality/auroc_sei"} <= set(rows)
    assert {"normal", "seed", "encoder", "epochs"} <= set(rows)
    assert sum(text.startswith("0, seed 0: ") for text in rows) == 1
    assert sum(text.startswith("0, seed 1: ") for text in rows) == 1

    # No tab is empty. Distributions are another view of the histograms.
    shown = "found.filter(e => e.role == 'tab' && e.closest('mat-tab-header') && visible(e))"
    tabs = board.page.run(f"{EVERYTHING} return {shown}.map(e => e.innerText)")
    expected = ["time series", "scalars", "images", "graphs", "distributions", "histograms", "pr curves", "hparams"]
    assert [tab.strip().lower() for tab in tabs] == [*expected, "projector"]
