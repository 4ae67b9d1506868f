"""What is measured, and how to measure it again; every figure is a ratio of two sides of one run."""
