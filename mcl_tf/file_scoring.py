"""Scores files with a SavedModel alone: `main.py --mode=score`."""

from __future__ import annotations

import csv
import functools
import glob
import json
import os
import pathlib
import stat
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.data import decoding
from mcl_tf.errors import UsageError, one_line, printable
from mcl_tf.export import version_folders
from mcl_tf.export.model_card import read_card
from mcl_tf.utils import parallel
from mcl_tf.utils.console import progress, say

COLUMNS = ("file", "score", "is_anomaly", "p_value", "nearest_class", "class_name")
MAX_BYTES = 2**29  # of one file; encoded pictures are smaller


def score_files(config: Config) -> int:
    """Scores the files of `--images` into `--output`, one row a file, in order, written as they come.

    Args:
      config: serving.saved_model, images, output; run.resume; scoring.scoring_batch_size.

    Returns:
      How many files were scored. Those that could not be are listed at the end, with the reason.

    Raises:
      UsageError: an option is missing, there is no model, no file, none that can be read, or the output is there.
    """
    options = config.serving
    for name in ("saved_model", "images", "output"):
        if not getattr(options, name):
            raise UsageError(f"--mode=score needs --saved_model, --images and --output. Received: no --{name}")
    path = version_folders.find(options.saved_model)
    size = read_card(path)["image_size"]
    files = [name for name in find_files(options.images) if not _same_file(name, options.output)]
    if not files:
        raise UsageError(
            f"--images must be a folder with files or a glob that matches some. Received: {options.images}"
        )
    output = Output(options.output, bool(config.run.resume))
    left = [name for name in files if name not in output.done]
    scorer = load_scorer(path)
    bad: list[tuple] = []
    with output, progress("Scoring") as bar:
        task = bar.add_task("", total=len(files), completed=len(files) - len(left), note="")
        for found, failures in scored_batches(scorer, left, size, config.scoring.scoring_batch_size):
            bad += failures
            output.write(found)
            bar.update(task, advance=len(found) + len(failures), note=f"{len(bad)} unreadable" if bad else "")
    scored = len(left) - len(bad)
    say(f"{scored} files scored into {options.output}, {len(files) - len(left)} were there, {len(bad)} unreadable")
    for name, reason in bad:
        say(f"  {printable(name)} {reason}")
    if len(bad) == len(files):
        raise UsageError(
            f"None of the {len(files)} files of --images={options.images} is a picture that can be read"
        )
    return scored


def find_files(pattern: str) -> list[str]:
    """The files of a folder at any depth, or of a glob, sorted; names that begin with a dot are left out."""
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "**", "*")
    return sorted(name for name in glob.glob(pattern, recursive=True) if not os.path.isdir(name))


def load_scorer(path):
    """The signature `serving_default` of a SavedModel.

    Raises:
      UsageError: it cannot be loaded or has no such signature.
    """
    try:
        model = tf.saved_model.load(str(path))
        scorer = model.signatures["serving_default"]
    except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise UsageError(f"{path} cannot be loaded as a SavedModel of this library: {one_line(error)}") from None
    scorer.model = model  # a signature keeps no hold of the variables that it reads
    return scorer


def score_batch(scorer, images) -> dict[str, np.ndarray]:
    """The answers to pictures uint8 [n, s, s, 3]: {output: array [n]}."""
    try:
        return {name: value.numpy() for name, value in scorer(images=tf.constant(images)).items()}
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(f"The model cannot score: {one_line(error, 300)}") from None


def rows(names, answers) -> Iterator[dict]:
    """A row a file: `COLUMNS` with plain values."""
    columns = (answers[name].tolist() for name in COLUMNS[1:])
    for name, score, is_anomaly, p_value, nearest_class, class_name in zip(names, *columns, strict=True):
        values = (str(name), score, is_anomaly, p_value, nearest_class, class_name.decode())
        yield dict(zip(COLUMNS, values, strict=True))


def read_bytes(name) -> tuple[bytes, str]:
    """A file's bytes and an empty reason, or no bytes and the reason, as the end of a sentence."""
    try:
        facts = os.stat(name)
        if not stat.S_ISREG(facts.st_mode):
            return b"", "is no regular file"  # a pipe would be waited for
        if facts.st_size > MAX_BYTES:
            return b"", f"has more than {MAX_BYTES} bytes"
        with open(name, "rb", buffering=0) as file:
            return file.readall(), ""
    except OSError as error:
        return b"", f"cannot be read: {error.strerror or error}"


@functools.lru_cache(maxsize=4)  # tracing takes seconds
def make_decoder(size: int):
    """A function list of bytes [n] -> (uint8 [n, size, size, 3], reasons str [n]); threads may share it."""
    specification = [tf.TensorSpec([None], tf.string)]
    decode = tf.function(lambda contents: decoding.decode(contents, size), input_signature=specification)

    def decode_bytes(contents):
        images, reasons = decode(tf.constant(contents, tf.string, shape=[len(contents)]))
        return images.numpy(), np.array([reason.decode() for reason in reasons.numpy()], object)

    return decode_bytes


def scored_batches(scorer, names, size: int, batch_size: int) -> Iterator[tuple]:
    """Batches (rows of the files that were scored, [(name, reason)] of the others), in order."""
    decode = make_decoder(size)

    def read_and_score(batch):
        contents, failures = zip(*map(read_bytes, batch), strict=True)
        images, reasons = decode(contents)
        reasons = np.array([failure or reason for failure, reason in zip(failures, reasons, strict=True)], object)
        batch, good = np.array(batch, object), reasons == ""
        found = list(rows(batch[good], score_batch(scorer, images[good]))) if good.any() else []
        return found, list(zip(batch[~good], reasons[~good], strict=True))

    batch_size = parallel.share(batch_size)
    return parallel.in_order(read_and_score, (names[i : i + batch_size] for i in range(0, len(names), batch_size)))


class Output:
    """The file of scores: CSV, or JSON lines if its name ends in .jsonl; every batch is flushed.

    Args:
      path: the file.
      resume: keep the rows that are there, without what a stopped start left half written.

    Attributes:
      done: names of the files whose rows are there.

    Raises:
      UsageError: the file is there and `resume` is not asked for, it is no file of scores, or cannot be written.
    """

    def __init__(self, path: str, resume: bool):
        self.path = pathlib.Path(path)
        self.json = self.path.suffix == ".jsonl"
        there = self.path.exists()
        if there and not resume:
            raise UsageError(f"--output={path} is there: --resume goes on with it, or choose another name")
        try:
            kept = list(self._read()) if there else []
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            # Written again as a whole: a stopped start may have left half a row.
            with self._open(temporary, "w") as self._file:
                if not self.json:
                    csv.writer(self._file, lineterminator="\n").writerow(COLUMNS)
                self.write(kept)
            os.replace(temporary, self.path)
            self._file = self._open(self.path, "a")
        except OSError as error:
            raise UsageError(f"--output={path} cannot be written: {error.strerror}") from None
        self.done = {row["file"] for row in kept}

    @staticmethod
    def _open(path, mode):
        # File names need not be UTF-8.
        return open(path, mode, newline="", encoding="utf-8", errors="surrogateescape")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, found) -> None:
        """Appends rows."""
        if self.json:
            self._file.writelines(json.dumps(row) + "\n" for row in found)
        else:
            writer = csv.DictWriter(self._file, COLUMNS, lineterminator="\n")
            numbers = ("score", "p_value")
            # Nine significant digits give a float32 back.
            for row in found:
                text = {name: f"{float(row[name]):.9g}" for name in numbers}
                writer.writerow({**row, **text, "is_anomaly": int(row["is_anomaly"])})
        self._file.flush()

    def _read(self):
        """The complete rows of an earlier start."""
        with self._open(self.path, "r") as file:
            text = file.read()
        lines = text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        reader = csv.DictReader(lines)
        if not self.json and text and lines and tuple(reader.fieldnames or ()) != COLUMNS:
            raise UsageError(f"{self.path} is no file of scores, whose first line is {','.join(COLUMNS)}")
        for row in map(_parse_json, lines) if self.json else reader:
            if not (isinstance(row, dict) and set(row) == set(COLUMNS) and None not in row.values()):
                raise UsageError(f"{self.path} holds a row that is no score. Received: {str(row)[:100]}")
            yield row


def _parse_json(line):
    try:
        return json.loads(line)
    except ValueError:
        return line


def _same_file(name, output):
    return os.path.exists(output) and os.path.realpath(name) == os.path.realpath(output)
