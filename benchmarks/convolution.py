"""`convolution`: the encoder trained by minimal filtering against the same with Keras' own convolution."""

from __future__ import annotations

from unittest import mock

from benchmarks import subjects
from benchmarks.measure import duration, times


def rows(repeats: int = 7):
    """Yields the rows.

    Raises:
      RuntimeError: the encoder keeps Keras' own convolution on this machine.
    """
    from mcl_tf import convolution

    if not convolution.is_faster_here():
        raise RuntimeError("Training keeps Keras' own convolution here: it takes oneDNN, AVX2 and no GPU")
    for name in subjects.CONFIGURATIONS:
        ours = _side(name)
        with mock.patch.object(convolution, "is_faster_here", return_value=False):
            plain = _side(name)
        found = times({"ours": ours, "Keras": plain}, repeats * (3 if name == "small" else 1))
        what = "encoder forward and backward, minimal filtering / Keras' convolution"
        yield duration(f"convolution {name}", what, found, "ours", "Keras")


def _side(name: str):
    """The encoder's forward and backward pass on the views of a step, traced."""
    import tensorflow as tf

    from mcl_tf.training.trainer import build_model

    config = subjects.configuration(name)
    encoder = build_model(config, subjects.SIDE).encoder
    shape = (config.training.batch_size * 8, subjects.SIDE, subjects.SIDE, 3)
    run = subjects.bare_forward_and_backward(encoder, tf.random.stateless_uniform(shape, [0, 2]))
    run()
    return run
