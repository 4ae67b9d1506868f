"""Benchmarks of the library: `python -m benchmarks`.

Every row of the table is a ratio of two sides that are measured alternately in one run. Every module with the function
`rows` yields some of the rows and runs in a process of its own: `python -m benchmarks --only=step` runs
`benchmarks/step.py`.
"""

import os
import platform

if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # before TensorFlow is imported, as in main.py
