"""Memory: what is free by the files of the system, and what a network needs by the sizes of its layers."""

import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.utils import memory

layers = tf.keras.layers
GIB = 2**30
VERSION_2 = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
VERSION_1 = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
# As in the files of the system: kibibytes here, bytes in those of control groups.
MEMINFO = f"MemTotal: {16 * 2**20} kB\nMemFree: {1 * 2**20} kB\nMemAvailable:    {8 * 2**20} kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that puts files {path: text} in place of all those that `memory` reads."""

    def put(files):
        def path(name):
            return tmp_path / name.replace("/", "_")

        for name, text in files.items():
            path(name).write_text(text)
        monkeypatch.setattr(memory, "pathlib", types.SimpleNamespace(Path=path))

    return put


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        (dict(zip(VERSION_2, ("max\n", f"{GIB}\n"), strict=True)), 8 * GIB),
        (dict(zip(VERSION_2, (f"{4 * GIB}\n", f"{GIB}\n"), strict=True)), 3 * GIB),
        (dict(zip(VERSION_1, (f"{4 * GIB}\n", f"{GIB}\n"), strict=True)), 3 * GIB),
        (dict(zip(VERSION_1, (f"{2**63 - 4096}\n", f"{GIB}\n"), strict=True)), 8 * GIB),  # version 1 without a limit
        (dict(zip(VERSION_2, (f"{12 * GIB}\n", f"{GIB}\n"), strict=True)), 8 * GIB),  # others use the machine, too
        (dict(zip(VERSION_2, (f"{GIB}\n", f"{2 * GIB}\n"), strict=True)), 0),
        ({VERSION_2[0]: f"{GIB}\n"}, 8 * GIB),  # no file of the usage
    ],
    ids=["no group", "no limit", "version 2", "version 1", "huge limit", "large limit", "exceeded", "no usage"],
)
def test_available_is_within_the_machine_and_the_container(files, expected, system):
    system({"/proc/meminfo": MEMINFO, **files})
    assert memory.available() == expected


@pytest.mark.parametrize("files", [{}, {"/proc/meminfo": "MemFree: 3 kB\n"}, {"/proc/meminfo": "MemAvailable: much\n"}])
def test_available_is_unknown_where_the_system_does_not_tell(files, system):
    system({**files, **dict(zip(VERSION_2, (f"{4 * GIB}", "0"), strict=True))})
    assert memory.available() is None


def test_available_on_this_machine():
    if not pathlib.Path("/proc/meminfo").exists():
        assert memory.available() is None
        return
    total = next(line for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    assert 0 < memory.available() <= int(total.split()[1]) * 1024


def make_network(side=8, dtype="float32"):
    inputs = layers.Input((side, side, 3), dtype="float32")
    x = layers.Conv2D(4, 3, padding="same", dtype=dtype)(inputs)
    x = layers.GlobalAveragePooling2D(dtype=dtype)(x)
    return tf.keras.Model(inputs, x)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("mixed_bfloat16", 2), ("float64", 8)])
def test_training_keeps_the_outputs_of_all_layers(dtype, width):
    expected = 4 * 8 * 8 * 3 + width * (8 * 8 * 4 + 4)  # the images are float32 in any case
    assert memory.training_bytes_per_view(make_network(dtype=dtype)) == pytest.approx(1.35 * expected, abs=1)


def test_inference_keeps_the_outputs_of_neighbouring_layers():
    assert memory.inference_bytes_per_view(make_network()) == pytest.approx(4.0 * 4 * 8 * 8 * 4, abs=1)


@pytest.mark.parametrize("estimate", [memory.training_bytes_per_view, memory.inference_bytes_per_view])
def test_estimates_grow_with_the_area(estimate):
    small, large = estimate(make_network(32)), estimate(make_network(64))
    assert large == pytest.approx(4 * small, rel=1e-3)  # but for the pooled vector


def test_several_outputs_of_a_layer_count():
    class Halves(layers.Layer):
        def call(self, x):
            return tf.split(x, 2, axis=-1)

    inputs = layers.Input((6, 6, 4))
    first, second = Halves()(inputs)
    network = tf.keras.Model(inputs, [first, second])
    assert memory.training_bytes_per_view(network) == pytest.approx(1.35 * 4 * np.prod([6, 6, 8]), abs=1)
