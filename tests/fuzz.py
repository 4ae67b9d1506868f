"""Decodes and scores randomly damaged images for some minutes: `python -m tests.fuzz --minutes=10 --seed=0`.

Every round damages the encoded images of the tests and checks that scoring them ends in time, in bounded memory, with a
finite score or a reason for every file. A round that fails leaves its files, which the last line names.
"""

import argparse
import csv
import itertools
import math
import multiprocessing
import pathlib
import tempfile
import time

import numpy as np

from benchmarks.memory import peak
from tests.encoded_images import BAD, GOOD

_FILES, _ROUND_SECONDS, _MAX_GROWTH = 200, 120, 1024  # MiB
_NUMBERS = [bytes([0] * 4), bytes([255] * 4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\x80\0", b"\0\1\0\1"]


def damage(content: bytes, others: list[bytes], rng) -> bytes:
    """Return an encoded image with one to eight random changes."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        at = int(rng.integers(len(data) + 1))
        if rng.random() < 0.5:
            at = min(at, int(rng.integers(64)))  # headers decide most
        size = int(rng.integers(1, 40))
        change = rng.integers(6)
        if change == 0:
            data[at : at + 1] = rng.bytes(1)
        elif change == 1:
            data[at : at + size] = rng.bytes(size)
        elif change == 2:
            number = _NUMBERS[rng.integers(len(_NUMBERS))][: rng.integers(1, 5)]
            data[at : at + len(number)] = number
        elif change == 3:
            del data[at : at + size]
        elif change == 4:
            data[at:at] = data[at : at + size] * int(rng.integers(1, 5))
        else:
            other = others[rng.integers(len(others))]
            start = int(rng.integers(len(other) + 1))
            data[at:at] = other[start : start + 4 * size]
    return bytes(data)


def score_rounds(saved_model, folders, results) -> None:
    """Score the folders that come from a queue, and report the peak of memory and the number of scored files."""
    import mcl_tf

    for folder in iter(folders.get, None):
        output = folder.with_suffix(".csv")
        try:
            mcl_tf.score_files(saved_model, folder, output)
        except mcl_tf.UsageError as error:
            if "None of the" not in str(error):
                raise
        with open(output, newline="", encoding="utf-8") as file:
            scores = [float(row["score"]) for row in csv.DictReader(file)]
        assert all(map(math.isfinite, scores))
        results.put((peak(), len(scores)))


def make_model(path: str) -> None:
    """Export an untrained detector."""
    import mcl_tf
    from tests.helpers import DETECTOR_OPTIONS, tinted_images

    mcl_tf.AnomalyDetector(**DETECTOR_OPTIONS).fit(tinted_images(24)[0]).export(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seeds = [content for content, _ in (*GOOD.values(), *BAD.values())]
    rng = np.random.default_rng(options.seed)
    context = multiprocessing.get_context("spawn")
    work = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    maker = context.Process(target=make_model, args=(str(work / "model"),))
    maker.start()
    maker.join()
    folders, results = context.Queue(), context.Queue()
    process = context.Process(target=score_rounds, args=(str(work / "model"), folders, results))
    process.start()
    begin, first, scored, longest = time.monotonic(), 0.0, 0, 0.0
    for index in itertools.count():
        folder = work / f"round-{index}"
        folder.mkdir()
        for number in range(_FILES):
            content = seeds[rng.integers(len(seeds))]
            # The first round has whole images, so that later peaks are compared with those of usual work.
            (folder / f"{number}.png").write_bytes(damage(content, seeds, rng) if index else content)
        start = time.monotonic()
        folders.put(folder)
        while results.empty():
            alive = process.is_alive() and time.monotonic() - start < _ROUND_SECONDS
            assert alive, f"a crash or a hang in {folder}: exit code {process.exitcode}"
            time.sleep(0.01)
        memory, count = results.get()
        first, scored = first or memory, scored + count
        longest = max(longest, time.monotonic() - start if index else 0.0)
        assert memory < first + _MAX_GROWTH, f"{memory - first:.0f} MiB more in {folder}"
        for file in folder.iterdir():
            file.unlink()
        if time.monotonic() - begin > 60.0 * options.minutes:
            break
    folders.put(None)
    process.join()
    print(
        f"{(index + 1) * _FILES} files, {scored} scored, the others named; longest round {longest:.1f} s; "
        f"peak {memory:.0f} MiB, after whole images {first:.0f} MiB"
    )


if __name__ == "__main__":
    main()
