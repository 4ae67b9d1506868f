"""One result whatever the devices: replicas, and workers that are processes of their own."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mcl_tf.errors import UsageError
from mcl_tf.training.distribution import check_cluster, make_strategy

WORKER = pathlib.Path(__file__).with_name("train_worker.py")
ROOT = WORKER.parents[2]
NETWORK = ("projection_dim=32", "width=0.5")
# Small steps in float32, since rounding jumps where a ReLU's input is 0 but for its last digits: at the default
# learning rate of 0.3 weights of two replicas were off by 1e-2 after ten steps, and by the same 1e-2 those of one
# device whose first weights had been moved by their last bit. At 0.005 up to 9e-5 was seen, over seeds 0 to 4.
STEADY = ("learning_rate=0.005", *NETWORK)


def start(out, replicas, *options, config=None, root=ROOT, **more):
    environment = {**os.environ, "PYTHONPATH": str(root), **more}
    environment.pop("TF_CONFIG", None)
    if config:
        environment["TF_CONFIG"] = json.dumps(config)
    command = [sys.executable, str(WORKER), str(out), str(replicas), *options]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(process, timeout=300):
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return errors


def start_workers(folder, *options, **more):
    """Two processes with one CPU each, on free ports of the loopback interface."""
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("localhost", 0))
        addresses = [f"localhost:{one.getsockname()[1]}" for one in (first, second)]
    cluster = {"worker": addresses}
    return [
        start(
            folder / f"worker{index}.npz",
            1,
            "strategy=multi_worker",
            *options,
            config={"cluster": cluster, "task": {"type": "worker", "index": index}},
            **more,
        )
        for index in range(2)
    ]


def assert_same(expected, found, weights, losses, gradients):
    """Logs of ten steps and first gradients to so much of their size, weights to `weights` of them and of 1.

    Shifts begin at 0 and have no size of their own yet: what they are added to is about 1. A gradient's size is
    the largest of its tensor.
    """
    with np.load(expected) as a, np.load(found) as b:
        logs = [json.loads(str(side["logs"])) for side in (a, b)]
        assert len(logs[0]) == len(logs[1]) == 10
        for one, other in zip(*logs, strict=True):
            for name in one:
                np.testing.assert_allclose(other[name], one[name], rtol=losses, atol=losses / 10, err_msg=name)
        assert a["moved"] > 0.01
        names = set(a) - {"logs", "moved"}
        assert sum(name.startswith("gradient") for name in names) > 20
        for name in names:
            relative, absolute = weights, weights
            if name.startswith("gradient"):
                relative, absolute = 0.0, gradients * np.abs(a[name]).max()
            np.testing.assert_allclose(b[name], a[name], rtol=relative, atol=absolute, err_msg=name)


# Seen: losses to 2e-6, gradients to 1.2e-5; one ReLU that jumps was worth up to 1.8e-3 of a gradient.
IN_FLOAT32 = dict(weights=1e-4, losses=1e-5, gradients=5e-3)
IN_FLOAT64 = dict(weights=1e-10, losses=1e-12, gradients=1e-10)  # seen: 2e-14, 2e-16, 6e-14


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Ten steps of one device."""
    out = tmp_path_factory.mktemp("single") / "out.npz"
    process = start(out, 1, *STEADY)
    errors = finish(process)
    assert process.returncode == 0, errors
    return out


@pytest.fixture(scope="module")
def float64(tmp_path_factory):
    """Arguments of `start` for the same code with float64 for float32, and ten steps of one device with it."""
    root = tmp_path_factory.mktemp("float64")
    for path in (ROOT / "mcl_tf").rglob("*.py"):
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text().replace("float32", "float64"))
    arguments = dict(root=root, MCL_TF_FLOAT64="1")
    process = start(root / "out.npz", 1, *NETWORK, **arguments)
    errors = finish(process)
    assert process.returncode == 0, errors
    return arguments, root / "out.npz"


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_end_with_the_weights_of_one_device(replicas, single, tmp_path):
    process = start(tmp_path / "out.npz", replicas, *STEADY)
    errors = finish(process)
    assert process.returncode == 0, errors
    assert_same(single, tmp_path / "out.npz", **IN_FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_but_for_rounding_they_do_at_the_default_learning_rate(replicas, float64, tmp_path):
    arguments, expected = float64
    process = start(tmp_path / "out.npz", replicas, *NETWORK, **arguments)
    errors = finish(process)
    assert process.returncode == 0, errors
    assert_same(expected, tmp_path / "out.npz", **IN_FLOAT64)


@pytest.mark.slow
def test_two_workers_end_with_the_weights_of_one_process(single, tmp_path):
    processes = start_workers(tmp_path, *STEADY, f"run_dir={tmp_path / 'run'}")
    for process in processes:
        errors = finish(process)
        assert process.returncode == 0, errors
    for index in range(2):
        assert_same(single, tmp_path / f"worker{index}.npz", **IN_FLOAT32)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000000010"]


@pytest.mark.slow
@pytest.mark.parametrize("dying", [1, 0])
def test_a_worker_that_dies_stops_the_other_and_the_job_goes_on(dying, tmp_path):
    run = tmp_path / "run"
    options = (*STEADY, f"run_dir={run}", "checkpoint_every=1", "worker_timeout=60")
    processes = start_workers(tmp_path, *options, "epochs=5000")
    end = time.monotonic() + 240
    while not list((run / "checkpoints").glob("step-*")) and time.monotonic() < end:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    processes[dying].send_signal(signal.SIGKILL)
    errors = finish(processes[1 - dying], timeout=120)  # bounded: TensorFlow's 20 s or the 60 s of the option
    finish(processes[dying])
    assert processes[1 - dying].returncode == 3, errors
    assert "The same command on every machine goes on from the newest checkpoint" in errors.splitlines()[-1]
    step = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    again = start_workers(tmp_path, *options, f"epochs={step // 2 + 1}")
    for process in again:
        errors = finish(process)
        assert process.returncode == 0, errors
    with np.load(tmp_path / "worker0.npz") as found:
        assert len(json.loads(str(found["logs"]))) == 2  # one epoch more, not all of them again


CLUSTER = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("description", "received"),
    [
        ("", "Received: no TF_CONFIG"),
        ("{not JSON", "which is not JSON"),
        ("[1]", "no cluster of workers"),
        (json.dumps({"cluster": CLUSTER}), "no task of type and index"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "worker"}}), "no task of type and index"),
        (json.dumps({"task": {"type": "worker", "index": 0}}), "no cluster of workers"),
        (json.dumps({"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}), "no cluster of workers"),
        (
            json.dumps({"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}),
            "no list of host:port",
        ),
        (json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}), "the task worker 2"),
        (json.dumps({"cluster": CLUSTER, "task": {"type": [], "index": 0}}), "the task"),
    ],
)
def test_a_wrong_tf_config_is_one_line(description, received, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", description)
    with pytest.raises(UsageError) as error:
        make_strategy("multi_worker")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("--strategy=multi_worker reads TF_CONFIG, for example {")
    assert received in str(error.value)


@pytest.mark.parametrize("index", [0, "1"])
def test_a_right_tf_config_passes(index):
    check_cluster(json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": index}}))
