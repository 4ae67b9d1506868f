"""What is measured, and how to measure it again: `python -m benchmarks`.

Every row is a ratio of two sides of one run that take turns. A module here has the function `rows`, which yields
them; `python -m benchmarks --only=step` runs those of `benchmarks/step.py`, each module in a process of its own.
"""

import mcl_tf  # noqa: F401 - before TensorFlow, so that it takes the same kernels as in main.py
