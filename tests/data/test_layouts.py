"""Layouts of folders and tables: what is recognised, how it is divided, and what is refused."""

import csv

import pytest

from mcl_tf.data import layouts
from mcl_tf.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    """A function that creates empty files in a folder and returns its path."""

    def create(*names):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return str(tmp_path / "set")

    return create


@pytest.mark.parametrize(
    ("names", "kind", "train", "test"),
    [
        (
            ["train/good/1.png", "test/good/2.png", "test/cut/deep/3.png", "ground_truth/cut/3.png"],
            "the folders train and test",
            {"good": 1},
            {"good": 1, "cut": 1},
        ),
        (["train/good/1.png", "train/fine/a/2.JPG"], "the folder train", {"good": 1, "fine": 1}, {}),
        (["train/1.png", "train/2.png"], "the folder train", {"good": 2}, {}),
        (["train/1.png", "test/good/2.png"], "the folders train and test", {"good": 1}, {"good": 1}),
        (["train/good/1.png", "train/2.png"], "the folder train", {"good": 1}, {}),
        (
            ["good/1.png", "good/a/2.png", "cut/3.png", "ground_truth/cut/3.png"],
            "a folder per class, without train and test",
            {"good": 2, "cut": 1},
            {},
        ),
        (["1.png", "2.png", "2024/3.png"], "a folder of images of one class", {"good": 3}, {}),
        (["notes.txt"], "a folder per class, without train and test", {}, {}),
    ],
)
def test_recognises_a_layout(names, kind, train, test, folder):
    layout = layouts.recognise(folder(*names))
    assert layout.kind == kind
    found = {split: {name: len(paths) for name, paths in part.items()} for split, part in layout.classes.items()}
    assert found == {"train": train, "test": test}
    assert layout.undivided == (not kind.startswith("the folder"))


def names_of(layout):
    return {
        split: {name: {path.rsplit("/", 1)[1] for path in paths} for name, paths in part.items() if paths}
        for split, part in layout.classes.items()
    }


def test_divides_the_normal_class_and_leaves_the_others_to_the_test(folder):
    layout = layouts.recognise(folder(*(f"good/{i}.png" for i in range(50)), "cut/x.png", "bent/y.png"))
    divided = names_of(layout.divided(["good"], 0))
    assert (len(divided["train"]["good"]), len(divided["test"]["good"])) == (40, 10)
    assert divided["train"]["good"].isdisjoint(divided["test"]["good"])
    assert divided["test"]["cut"] == {"x.png"}
    assert set(divided["train"]) == {"good"}
    assert names_of(layout.divided(["good"], 0)) == divided
    assert names_of(layout.divided(["good"], 1)) != divided
    # A new image changes the place of one other at most.
    more = layouts.recognise(folder("good/new.png"))
    changed = divided["test"]["good"] ^ names_of(more.divided(["good"], 0))["test"]["good"]
    assert len(changed - {"new.png"}) <= 1


@pytest.mark.parametrize(
    ("normal", "has_anomalies", "train", "test"),
    [(["good"], False, 10, 0), (["good"], True, 8, 2), ([], True, 0, 10)],
    ids=["normal images alone", "anomalies elsewhere", "anomalies"],
)
def test_divides_a_class_only_if_there_are_anomalies(normal, has_anomalies, train, test, folder):
    layout = layouts.recognise(folder(*(f"{i}.png" for i in range(10)))).divided(normal, 0, has_anomalies)
    assert [len(layout.classes[split]["good"]) for split in layouts.SPLITS] == [train, test]


def test_what_is_divided_already_stays(folder):
    layout = layouts.recognise(folder("train/good/1.png", "test/good/2.png", "test/cut/3.png"))
    assert layout.divided(["good"], 0) is layout


# Tables.


def write_table(folder, rows, name="table.csv"):
    with open(f"{folder}/{name}", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return f"{folder}/{name}"


def test_reads_a_table(folder):
    base = folder("a/1.png", "a/2.png", "b, c/ü.png")
    rows = [["split", "path", "label"], ["train", "a/1.png", "good"], ["test", "a/2.png", "good"]]
    layout = layouts.recognise(write_table(base, [*rows, ["test", "b, c/ü.png", "bent"]]))
    assert (layout.kind, layout.undivided, layout.base) == ("a table", False, base)
    assert layout.classes == {
        "train": {"good": [f"{base}/a/1.png"]},
        "test": {"good": [f"{base}/a/2.png"], "bent": [f"{base}/b, c/ü.png"]},
    }


def test_a_table_of_paths_alone_has_one_class(folder):
    base = folder("2.png", "1.png")
    layout = layouts.recognise(write_table(base, [["path"], ["2.png"], [f"{base}/1.png"]]))
    assert layout.classes == {"train": {"good": [f"{base}/1.png", f"{base}/2.png"]}, "test": {}}
    assert layout.undivided


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["file", "label"], ["1.png", "good"]], "must have a column path, .*Received: file, label"),
        ([], "must have a column path"),
        ([["path"], ["1.png"], ["gone.png"], [""]], r"must name files. Received: .*/gone.png \(and 1 more\)"),
        ([["path"], ["1.png"], ["./1.png"]], "must name every file once. Received: .*/1.png twice"),
        ([["path", "split"], ["1.png", "val"]], "train or test in the column split. Received: 'val' for 1.png"),
        ([["path", "split"], ["1.png"]], "train or test in the column split. Received: None for 1.png"),
    ],
)
def test_refuses_a_wrong_table_in_one_line(rows, message, folder):
    path = write_table(folder("1.png"), rows)
    with pytest.raises(UsageError, match=message) as error:
        layouts.recognise(path)
    assert "\n" not in str(error.value)


def test_refuses_what_does_not_exist(tmp_path):
    for name, message in (("gone", "no such folder"), ("gone.csv", "cannot be read: No such file")):
        with pytest.raises(UsageError, match=message):
            layouts.recognise(str(tmp_path / name))
