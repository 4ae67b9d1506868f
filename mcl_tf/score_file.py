"""A file of scores that can be resumed: every row knows its model, and the state of its image when it was scored."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mcl_tf.data import paths
from mcl_tf.errors import UsageError
from mcl_tf.run_record import file_hash
from mcl_tf.utils.atomic import atomic_file

SCORES = ("file", "score", "is_anomaly", "p_value", "nearest_class", "class_name")
COLUMNS = (*SCORES, "place", "image_state", "model")
# File names need not be UTF-8.
_TEXT: Any = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}


def model_of(saved_model) -> str:
    """Return the fingerprint of a model for the column `model`; a copy of it has the same.

    Args:
      saved_model: the folder of a SavedModel, or the file of an export for another device.

    Raises:
      UsageError: it cannot be read.
    """
    path = pathlib.Path(saved_model)
    try:
        # A letter first, or a spreadsheet may take it for a number.
        files = [path / "saved_model.pb", *sorted((path / "variables").glob("variables.*"))]
        return "m" + file_hash(*([path] if path.is_file() else files))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def time_of(state: str) -> float | None:
    """Return the time of the modification that `image_state` holds, in seconds since 1970; None if it holds none."""
    found = re.fullmatch(r"\d+ bytes of (-?\d+)", state)
    return int(found[1]) / 1e9 if found else None


class ScoreFile:
    """A file of scores: CSV, or JSON lines if its name ends in .jsonl. Every batch is flushed.

    It is only read at first. As a context manager, it is created, or written again without half a row at its end and
    without the rows of images that have changed since; then rows can be added.

    Args:
      path: the file.
      model: the result of `model_of` for the model that scores.
      resume: whether to keep the complete rows of an existing file.

    Attributes:
      scored: the names of the files whose rows are there and current.

    Raises:
      UsageError: the file exists and `resume` is off, it is not a file of scores or one of another model, or it cannot
        be written.
    """

    def __init__(self, path, model: str, resume: bool):
        self.path, self.model = pathlib.Path(path), model
        self.json = _is_json(self.path)
        self._exists = self.path.exists()
        if self._exists and not resume:
            raise _exists_already(path)
        with _one_line_errors(path, "read"):
            rows = list(read_rows(self.path)) if self._exists else []
        others = [row for row in rows if row["model"] != model]
        if others:
            raise UsageError(
                f"The output {path} has scores of another model. Choose another name, or the model that it was begun "
                f"with. Received: {model}, not {others[0]['model']}"
            )
        # A file that is gone cannot be scored again, so that its row stays.
        self._kept = [row for row in rows if paths.file_state(row["file"]) in ("", row["image_state"])]
        self.scored = {row["file"] for row in self._kept}

    def __enter__(self):
        with _one_line_errors(self.path, "written"):
            if self._exists:
                self._replace(self._kept)
                self._file = open(self.path, "a", **_TEXT)
            else:
                self._file = open(self.path, "x", **_TEXT)  # it may have been created since
                self._file.writelines(self._lines((), header=True))
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, rows) -> None:
        """Append rows: dictionaries with `SCORES`, `place` and `image_state`."""
        with _one_line_errors(self.path, "written"):
            self._file.writelines(self._lines({**row, "model": self.model} for row in rows))
            self._file.flush()

    def sort(self, names) -> None:
        """Put the rows of files into the order of their names in a list, after those of other files.

        The file is written again only if it has another order. A row that is there twice is kept once, the last one.
        """
        position = {name: index for index, name in enumerate(names)}
        rows = list(read_rows(self.path))
        ordered = sorted({row["file"]: row for row in rows}.values(), key=lambda row: position.get(row["file"], -1))
        if ordered != rows:
            with _one_line_errors(self.path, "written"):
                self._replace(ordered)

    def _replace(self, rows) -> None:
        with atomic_file(self.path, **_TEXT) as file:
            file.writelines(self._lines(rows, header=True))

    def _lines(self, rows, header: bool = False) -> Iterator[str]:
        if self.json:
            yield from (json.dumps(row) + "\n" for row in rows)
            return
        if header:
            yield _csv_line(COLUMNS)
        for row in rows:
            # Nine significant digits identify a float32.
            numbers = {name: f"{float(row[name]):.9g}" for name in ("score", "p_value")}
            values = {**row, **numbers, "is_anomaly": int(row["is_anomaly"])}
            yield _csv_line(values[name] for name in COLUMNS)


def read_rows(path: pathlib.Path) -> Iterator[dict]:
    """Yield the complete rows of a file of scores: all values are strings in CSV, and keep their types in JSON lines.

    Raises:
      OSError: the file cannot be read.
      UsageError: it is not a file of scores.
    """
    is_json = _is_json(path)
    with open(path, **_TEXT) as file:
        text = file.read()
    records = list(_records(text, quoted=not is_json))
    # Of the first line, half may be there after an interruption.
    begin = json.dumps({SCORES[0]: ""})[:-2] if is_json else _csv_line(COLUMNS)
    if not records and not begin.startswith(text[: len(begin)]):
        raise UsageError(f"{path} is not a file of scores. Received: {text[:100].strip()}")
    rows = map(_parse_json, records) if is_json else csv.DictReader(records)
    if isinstance(rows, csv.DictReader) and records and tuple(rows.fieldnames or ()) != COLUMNS:
        raise UsageError(f"{path} is not a file of scores, whose first line is {','.join(COLUMNS)}")
    for row in rows:
        if not (isinstance(row, dict) and set(row) == set(COLUMNS) and None not in row.values()):
            raise UsageError(f"{path} has a row that is not a score. Received: {str(row)[:100]}")
        yield row


def _is_json(path: pathlib.Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _csv_line(values) -> str:
    """Return a line of CSV that ends in a line feed."""
    file = io.StringIO(newline="")
    # The writer quotes carriage returns and line feeds, which file names may hold, if they are in its line end.
    csv.writer(file, lineterminator="\r\n").writerow(values)
    return file.getvalue().removesuffix("\r\n") + "\n"


def _records(text: str, quoted: bool) -> Iterator[str]:
    """Yield the complete records of a text; a quoted line feed ends none, and what comes after the last one is left."""
    record = ""
    # File names may hold the other line boundaries of `splitlines`.
    for line in text.split("\n")[:-1]:
        record += line + "\n"
        if not quoted or record.count('"') % 2 == 0:
            yield record
            record = ""


def _parse_json(line):
    try:
        return json.loads(line)
    except ValueError:
        return line.strip()


@contextlib.contextmanager
def _one_line_errors(path, what: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise _exists_already(path) from None
    except OSError as error:
        raise UsageError(f"The output {path} cannot be {what}: {error.strerror}") from None


def _exists_already(path) -> UsageError:
    return UsageError(f"The output {path} exists. Resume to add to it, or choose another name")
