"""Seconds from the command to what a user waits for: the help, and the first step of the demo's training.

    python -m benchmarks.startup

Runs the real commands as processes of their own. With `--max_steps=1` the first step is the last one too, after
which a checkpoint is written; when it is there, the step is over, and the process is killed. Beside them stands a
bare `import tensorflow`, which nothing of this library can shorten.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HELP_LIMIT, STEP_LIMIT = 1.0, 12.0  # seconds that are aimed at
_TIMEOUT = 300


def arguments() -> argparse.ArgumentParser:
    """What can be chosen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    return parser


def rows(options=None) -> list[dict]:
    """Measures.

    Args:
      options: of `arguments`; their defaults by default.

    Returns:
      A dict a row: name, value and reference in `unit`, what the reference is (`of`), and their ratio, which
      should be below 1.
    """
    options = options or arguments().parse_args([])
    sides = {
        "startup: --help": lambda: seconds_of([sys.executable, "main.py", "--help"]),
        "startup: first step of the demo": seconds_to_first_step,
        "startup: import tensorflow alone": lambda: seconds_of([sys.executable, "-c", "import tensorflow"]),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(options.repeats + 1):
        for name, call in sides.items():
            seconds = call()
            if repeat:  # the first round reads files from the disk
                times[name].append(seconds)
    found = []
    for name, limit in zip(sides, (HELP_LIMIT, STEP_LIMIT, STEP_LIMIT), strict=True):
        value = statistics.median(times[name])
        row = {
            "name": name,
            "value": value,
            "unit": "s",
            "reference": limit,
            "of": "the aim",
            "ratio": value / limit,
        }
        found.append(row)
    return found


def seconds_of(command) -> float:
    """How long a command takes.

    Raises:
      RuntimeError: it fails.
    """
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=_TIMEOUT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.decode()[-500:]}")
    return time.perf_counter() - start


def seconds_to_first_step() -> float:
    """From the demo's command to the checkpoint of its first step; the process is killed then.

    Raises:
      RuntimeError: the command ends before.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "main.py", "--flagfile=flags/presets/demo.flags", "--max_steps=1"]
        command.append(f"--run_dir={directory}/run")
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while not any(pathlib.Path(directory, "run", "checkpoints").glob("step-*")):
                if process.poll() is not None or time.perf_counter() - start > _TIMEOUT:
                    raise RuntimeError(f"No first step of {' '.join(command)}")
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measures and prints a line a row."""
    for found in rows(arguments().parse_args()):
        print(f"{found['name']}: {found['value']:.2f} s, aim {found['reference']:g} s, ratio {found['ratio']:.2f}")
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
