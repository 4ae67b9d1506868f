"""`torch`: the training step of ResNet-18, compared with the same step in plain PyTorch (extra `bench`)."""

from __future__ import annotations

import importlib.util
import multiprocessing

from benchmarks import step, subjects
from benchmarks.measure import rate_row, time_sides


def rows(repeats: int = 7):
    """Yield the row.

    Raises:
      RuntimeError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise RuntimeError("PyTorch is not installed: pip install 'mcl_tf[bench]'")
    config = subjects.configuration("resnet18")
    ours, _, views = step.sides(config)
    with Peer(config) as peer:
        seconds = time_sides({"mcl_tf": ours, "torch": peer.step}, repeats)
    comparison = "training step of mcl_tf / the same in PyTorch"
    yield rate_row("torch resnet18", comparison, seconds, "mcl_tf", "torch", views, "views/s", at_least=1.15)


class Peer:
    """PyTorch in a process of its own, because two thread pools in one process would slow each other down.

    Args:
      config: the configuration.
    """

    def __init__(self, config):
        model, context = config.model, multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        size = (config.training.batch_size, subjects.SIZE, model.projection_hidden, model.projection_dim)
        self.process = context.Process(target=_serve, args=(theirs, *size), daemon=True)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *error):
        self.connection.send(False)
        self.process.join(10)

    def step(self) -> float:
        """Run one step and return its seconds."""
        self.connection.send(True)
        while not self.connection.poll(1.0):
            if not self.process.is_alive():
                raise RuntimeError(f"The process of PyTorch ended with code {self.process.exitcode}")
        return self.connection.recv()


def _serve(connection, *size):
    from benchmarks.pytorch_step import serve

    serve(connection, *size)
