"""A table as JSON, CSV, Markdown and on the screen."""

import csv
import json

from mcl_tf.tables.files import Table

TABLE = Table(
    "Two classes",
    ("normal", "AUROC", "note"),
    (("a, \x1b[1mb", 0.123456789, None), ("c|d", 1.0, "worst")),
    {"rows": ["ä"]},
)


def test_writes_three_files(tmp_path):
    TABLE.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json", "results.md"]
    assert json.loads((tmp_path / "results.json").read_text()) == {"rows": ["ä"]}
    with open(tmp_path / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["normal", "AUROC", "note"], ["a, \x1b[1mb", "0.123457", ""], ["c|d", "1", "worst"]]
    assert (tmp_path / "results.md").read_text() == (
        "# Two classes\n\n| normal | AUROC | note |\n| --- | --- | --- |\n"
        "| a, \\\\x1b[1mb | 0.1235 |  |\n| c\\|d | 1.0000 | worst |\n"
    )


def test_prints_all_cells_as_text(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    TABLE.show()
    shown = capsys.readouterr().out
    for text in ("Two classes", "AUROC", "a, \\x1b[1mb", "0.1235", "c|d", "worst"):
        assert text in shown
    assert "\x1b" not in shown
