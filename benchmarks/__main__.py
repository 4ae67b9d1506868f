"""Runs benchmarks and prints one table:

python -m benchmarks                         all of them, about half an hour on two cores
python -m benchmarks --only=step,loss        some of them
python -m benchmarks --json=benchmarks.json  all of them; also writes the table as JSON
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import sys
from importlib import metadata

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from benchmarks.measure import module_rows, run_in_process

# {name: module}, in the order of the table.
BENCHMARKS = {
    "step": "step",
    "loss": "loss",
    "augment": "augment",
    "input": "input",
    "store": "store",
    "score": "score",
    "export": "export",
    "memory": "memory",
    "startup": "startup",
    "torch": "pytorch",
    "growth": "growth",
    "scaling": "scaling",
    "gpu": "gpu",
}


def main() -> int:
    """Run the benchmarks and return the exit code: 1 if one of them failed, whatever the ratios are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="comma-separated names: " + ", ".join(BENCHMARKS))
    parser.add_argument("--repeats", type=int, default=0, help="rounds per benchmark; 0 for its default")
    parser.add_argument("--json", default="", help="file for the table in JSON")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"--only must be some of {', '.join(BENCHMARKS)}. Received: {', '.join(unknown)}")
    if options.repeats < 0:
        parser.error(f"--repeats must be at least 0. Received: {options.repeats}")

    environment = describe_environment()
    print("; ".join(f"{key} {value}" for key, value in environment.items()), flush=True)
    rows, failures = [], {}
    for name in names:
        try:
            found = run_in_process(module_rows, BENCHMARKS[name], options.repeats)
        except Exception as error:  # noqa: BLE001 - the others still run
            failures[name] = f"{type(error).__name__}: {error}"
            print(f"{name}: {failures[name]}", file=sys.stderr, flush=True)
            continue
        if isinstance(found, str):
            print(f"{name}: {found}", flush=True)
        rows += found if isinstance(found, list) else []
    print_table(rows)
    if options.json:
        table = [{**dataclasses.asdict(row), "met": row.met} for row in rows]
        text = json.dumps({"environment": environment, "rows": table, "failures": failures}, indent=2)
        pathlib.Path(options.json).write_text(text + "\n")
    return 1 if failures else 0


def describe_environment() -> dict[str, str]:
    """Return the commit, the machine and the versions that the measurements belong to."""
    from mcl_tf.export.model_card import commit

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), processor)
    versions = {}
    for package in ("tensorflow", "keras", "numpy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": (commit() or "none")[:10],
        "processor": processor,
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        **versions,
        "oneDNN": "on" if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "1" else "off, or TensorFlow's default",
    }


def print_table(rows) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("row", "comparison", "value", "reference", "unit", "ratio", "target", "")
    for row in rows:
        result = {True: "met", False: "missed", None: ""}[row.met]
        numbers = (f"{row.value:,.4g}", f"{row.reference:,.4g}", row.unit, f"{row.ratio:.3f}")
        table.add_row(row.name, row.comparison, *numbers, row.target, result)
    console = Console()
    # Files and pipes have no width.
    Console(width=max(console.width, 150) if not console.is_terminal else None).print(table)


if __name__ == "__main__":
    sys.exit(main())
