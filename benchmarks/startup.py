"""`startup`: seconds from the command to the help, and to the first step of the demo.

The real commands run in processes of their own. With `--max_steps=1` the first step is also the last one, after which a
checkpoint is written; as soon as it exists, the process is killed. The reference is a bare `import tensorflow`.
"""

from __future__ import annotations

import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import Row, time_sides

ROOT = pathlib.Path(__file__).resolve().parent.parent
_TIMEOUT = 300


def rows(repeats: int = 3):
    """Yield the rows."""
    sides = {
        "help": lambda: run([sys.executable, "main.py", "--help"]),
        "demo": first_step,
        "tensorflow": lambda: run([sys.executable, "-c", "import tensorflow"]),
    }
    seconds = time_sides(sides, repeats, warm_up=1)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    for side, title, limit in (("help", "main.py --help", 1.0), ("demo", "first step of make demo", 12.0)):
        value = medians[side]
        yield Row(f"startup {side}", f"{title} / seconds allowed", value, limit, "s", value / limit, at_most=1.0)
    comparison = "first step of make demo / import tensorflow alone"
    value, bare = medians["demo"], medians["tensorflow"]
    yield Row("startup import", comparison, value, bare, "s", value / bare)


def run(command) -> None:
    """Run a command.

    Raises:
      CalledProcessError: it fails.
    """
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=_TIMEOUT, check=True)


def first_step() -> None:
    """Run the command of the demo until the checkpoint of its first step exists, then kill it.

    Raises:
      ValueError: there is no checkpoint in time.
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
