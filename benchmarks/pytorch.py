"""`torch`: views a second of the ResNet-18 step, against the same step in plain PyTorch (extra `bench`)."""

from __future__ import annotations

import importlib.util
import multiprocessing

from benchmarks import step, subjects
from benchmarks.measure import rate, times


def rows(repeats: int = 7):
    """Yields the row.

    Raises:
      RuntimeError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise RuntimeError("PyTorch is not installed: pip install 'mcl_tf[bench]'")
    config = subjects.configuration("resnet18")
    ours, _, views = step.sides(config)
    with Peer(config) as peer:
        found = times({"mcl_tf": ours, "torch": peer.step}, repeats)
    what = "training step of mcl_tf / the same in PyTorch"
    yield rate("torch resnet18", what, found, "mcl_tf", "torch", views, "views/s", at_least=1.15)


class Peer:
    """PyTorch in a process of its own: two thread pools in one would hinder each other."""

    def __init__(self, config):
        model, context = config.model, multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        size = (config.training.batch_size, subjects.SIDE, model.projection_hidden, model.projection_dim)
        self.process = context.Process(target=_serve, args=(theirs, *size), daemon=True)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *error):
        self.connection.send(False)
        self.process.join(10)

    def step(self) -> float:
        """Seconds of one step."""
        self.connection.send(True)
        while not self.connection.poll(1.0):
            if not self.process.is_alive():
                raise RuntimeError(f"The process with PyTorch ended with code {self.process.exitcode}")
        return self.connection.recv()


def _serve(connection, *size):
    from benchmarks.pytorch_step import serve

    serve(connection, *size)
