"""`startup`: seconds from the command to what a user waits for: the help, and the first step of the demo.

Runs the real commands as processes of their own. With `--max_steps=1` the first step is the last one too, after
which a checkpoint is written; when it is there, the step is over, and the process is killed. Beside them stands a
bare `import tensorflow`, which nothing of this library can shorten.
"""

from __future__ import annotations

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import Row, times

ROOT = pathlib.Path(__file__).resolve().parent.parent
_TIMEOUT = 300


def rows(repeats: int = 3):
    """Yields the rows."""
    sides = {
        "help": lambda: run([sys.executable, "main.py", "--help"]),
        "demo": first_step,
        "tensorflow": lambda: run([sys.executable, "-c", "import tensorflow"]),
    }
    found = times(sides, repeats, warm_up=1)
    medians = {side: statistics.median(values) for side, values in found.items()}
    for side, what, limit in (("help", "main.py --help", 1.0), ("demo", "first step of make demo", 12.0)):
        value = medians[side]
        yield Row(f"startup {side}", f"{what} / seconds allowed", value, limit, "s", value / limit, at_most=1.0)
    what = "first step of make demo / import tensorflow alone"
    value, bare = medians["demo"], medians["tensorflow"]
    yield Row("startup import", what, value, bare, "s", value / bare)


def run(command) -> None:
    """Runs a command.

    Raises:
      CalledProcessError: it fails.
    """
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=_TIMEOUT, check=True)


def first_step() -> None:
    """Runs the demo's command to the checkpoint of its first step; the process is killed then.

    Raises:
      ValueError: the command ends before.
    """
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "main.py", "--flagfile=flags/presets/demo.flags", "--max_steps=1"]
        command.append(f"--run_dir={directory}/run")
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not any(pathlib.Path(directory, "run", "checkpoints").glob("step-*")):
                if process.poll() is not None or time.perf_counter() - start > _TIMEOUT:
                    raise ValueError(f"No first step of {' '.join(command)}")
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
