"""Training that goes on where it stopped, to the bit; what it refuses; its options."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import Stopped, UsageError
from mcl_tf.training import checkpoints, trainer
from mcl_tf.training.trainer import Trainer, make_schedule
from mcl_tf.utils import compat

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = dict(
    encoder="small", width=0.25, projection_hidden=16, projection_dim=8, batch_size=4, epochs=3, labelled=True
)
loss_scaling = pytest.mark.skipif(not compat.KERAS_3, reason="float16 needs the loss scaling of Keras 3")
COUNT = 22  # 5 steps an epoch, two pictures left over


class Kill(tf.keras.callbacks.Callback):
    """Ends a training after some steps as a power cut would: nothing is done on the way out."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


class Record(tf.keras.callbacks.Callback):
    """All logs, by kind and number."""

    def __init__(self, into):
        super().__init__()
        self.into = into

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.into[self.epoch, batch] = dict(logs)

    def on_epoch_end(self, epoch, logs=None):
        self.into["epoch", epoch] = dict(logs)


def make_trainer(directory=None, **options):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    config = Config().replace(**{**TINY, **options})
    return Trainer(config, pictures, (np.arange(COUNT) % 3).astype(np.int32), directory)


def weights_of(trainer):
    return [w.numpy() for w in (*trainer.model.weights, *trainer.model.optimizer.variables)]


@pytest.fixture
def said(monkeypatch):
    lines = []
    for module in (checkpoints, trainer):
        monkeypatch.setattr(module, "say", lines.append)
    return lines


# Going on


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9, "warmup_epochs": 1.5, "clip_norm": 0.5, "decay_exclusions": True, "balanced_batches": True},
        pytest.param({"precision": "float16", "loss_block_size": 6}, marks=loss_scaling),
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_a_training_that_was_stopped_ends_as_one_that_was_not(options, tmp_path, said):
    """To the bit: weights, the optimiser's state, and the logs of every step and epoch."""
    expected, found = {}, {}
    whole = make_trainer(**options)
    whole.fit([Record(expected)])
    # A checkpoint after every step; stopped within the first, the second and the third epoch.
    for steps in (2, 4, 6):
        stopped = make_trainer(tmp_path, **options, checkpoint_minutes=1e-9)
        with pytest.raises(KeyboardInterrupt):
            stopped.fit([Record(found), Kill(steps)])
    last = make_trainer(tmp_path, **options)
    last.fit([Record(found)])
    assert [line.split(",")[0] for line in said] == [
        "Going on after epoch 0 of 3 and 2 of 5 steps",
        "Going on after epoch 1 of 3 and 1 of 5 steps",
        "Going on after epoch 2 of 3 and 2 of 5 steps",
    ]
    assert found == expected
    for a, b in zip(weights_of(whole), weights_of(last), strict=True):
        np.testing.assert_array_equal(b, a)


MAIN = ["--dataset=digits", "--encoder=small", "--width=0.25", "--projection_hidden=16", "--batch_size=16"]
MAIN += ["--epochs=30", "--ema=0.9"]


def start(directory, *more, **environment):
    command = [sys.executable, "main.py", *MAIN, f"--run_dir={directory}", "--checkpoint_minutes=0.005", *more]
    environment = {**os.environ, "COLUMNS": "200", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def steps_saved(directory):
    return sorted(path.name for path in (directory / "checkpoints").glob("step-*"))


def wait_for(condition, process, seconds=240):
    """Waits for a process to reach a condition; False if it ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        if condition():
            return True
        time.sleep(0.01)
    raise AssertionError("the process did not get there in time")


@pytest.mark.slow
def test_a_process_killed_three_times_ends_as_one_that_was_not(tmp_path):
    whole = start(tmp_path / "whole")
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = start(tmp_path / "killed")
        before = steps_saved(tmp_path / "killed")
        assert wait_for(lambda before=before: steps_saved(tmp_path / "killed") != before, process)
        time.sleep(rng.uniform(0.0, 0.6))  # anywhere: in a step, in a save
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    last = start(tmp_path / "killed")
    for process in (whole, last):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for name in ("metrics.json", "scores.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    newest = steps_saved(tmp_path / "whole")[-1]
    prefixes = [tmp_path / run / "checkpoints" / newest / "variables" for run in ("whole", "killed")]
    readers = [tf.train.load_checkpoint(str(prefix)) for prefix in prefixes]
    names = [name for name in readers[0].get_variable_to_shape_map() if not name.startswith("_")]
    assert len(names) > 30
    for name in names:
        np.testing.assert_array_equal(readers[1].get_tensor(name), readers[0].get_tensor(name), err_msg=name)
    assert not list((tmp_path / "killed" / "checkpoints").glob("unfinished-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(number, tmp_path):
    process = start(tmp_path, "--epochs=1000", "--checkpoint_minutes=0", "--checkpoint_every=5")
    assert wait_for(lambda: steps_saved(tmp_path), process)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    last = errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    assert "the same command goes on from there" in last
    step = int(last.split("after step ")[1].split()[0])
    assert steps_saved(tmp_path)[-1] == f"step-{step:09d}"


# Checkpoints


@pytest.fixture
def trained(tmp_path):
    """A run directory with the checkpoints of steps 5, 10 and 15."""
    make_trainer(tmp_path, checkpoint_every=1).fit()
    return tmp_path


def names(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "data cut off": ("variables.data-00000-of-00001", cut_off),
    "a bit of the data": ("variables.data-00000-of-00001", flip_a_bit),
    "no data": ("variables.data-00000-of-00001", pathlib.Path.unlink),
    "index cut off": ("variables.index", cut_off),
    "no index": ("variables.index", pathlib.Path.unlink),
    "facts cut off": ("facts.json", cut_off),
    "facts of another step": ("facts.json", lambda path: path.write_text('{"step": 3, "layout": {}}')),
    "facts no object": ("facts.json", lambda path: path.write_text("[]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(damage, trained, said):
    name, do = DAMAGES[damage]
    do(trained / "checkpoints" / "step-000000015" / name)
    trainer = make_trainer(trained)
    assert trainer.restore() == 10
    assert "step-000000015 is damaged" in said[0]
    assert "Going on after epoch 2 of 3, " in said[1]
    assert names(trained)[1:] == ["step-000000005", "step-000000010"]  # and the damaged one, aside


def test_without_a_whole_checkpoint_nothing_is_overwritten(trained):
    for path in (trained / "checkpoints").glob("*/variables.index"):
        path.unlink()
    before = names(trained)
    with pytest.raises(UsageError, match="No checkpoint .* is whole.*Received: steps 15, 10, 5"):
        make_trainer(trained).fit()
    assert names(trained) == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (
            {"projection_dim": 9},
            r"projection_head\[2\] kernel is \[\[16, 9\], 'float32'\] here. Received: .*16, 8",
        ),
        ({"encoder": "resnet18", "width": 0.0625}, r"encoder\[\d+\] .* here. Received: "),
        ({"ema": 0.5}, r"averages\[0\] .* here. Received: no such variable"),
        pytest.param({"precision": "float16"}, r"optimizer\[\d+\] .* here. Received: ", marks=loss_scaling),
    ],
)
def test_a_checkpoint_of_other_shapes_is_refused(options, difference, trained):
    before = names(trained)
    trainer = make_trainer(trained, **options)
    start = [w.numpy() for w in trainer.model.weights]
    with pytest.raises(UsageError, match=difference) as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    assert names(trained) == before
    for a, b in zip(start, trainer.model.weights, strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_checkpoints_of_other_code_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint").touch()
    with pytest.raises(UsageError, match="checkpoints of other code"):
        make_trainer(tmp_path).fit()


def test_no_resume_refuses_a_directory_with_checkpoints(trained):
    with pytest.raises(UsageError, match="--noresume .*step 15"):
        make_trainer(trained, resume=False).fit()


@pytest.mark.parametrize(
    ("options", "due"),
    [
        # Steps of 25 seconds, two an epoch: 2 minutes are over with the fifth step after a checkpoint.
        ({}, [5, 10, 15]),
        ({"checkpoint_minutes": 0.0}, []),
        ({"checkpoint_minutes": 0.0, "checkpoint_every": 4}, [8, 16]),
        ({"checkpoint_minutes": 5.0, "checkpoint_every": 4}, [8, 16]),
        ({"checkpoint_minutes": 2.5, "checkpoint_every": 4}, [6, 8, 14, 16]),
    ],
)
def test_checkpoints_are_due_by_the_clock_and_by_epochs(options, due, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    times, found = checkpoints.SavingTimes(Config().replace(**options).run), []
    for step in range(1, 19):
        now += 25.0
        if times.due(None if step % 2 else step // 2):
            found.append(step)
            times.done()
    assert found == due


class Break(tf.keras.callbacks.Callback):
    """Makes a weight not-a-number after a step; some kernels' ReLU makes 0 of it, and the loss stays a number."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        self.step -= 1
        if self.step == 0:
            kernel = self.model.trainable_variables[0]
            kernel.assign(tf.fill(kernel.shape, np.nan))


@pytest.mark.parametrize("into", ["run_dir", None])
def test_weights_that_are_not_finite_are_no_result(into, tmp_path):
    options = dict(directory=tmp_path, checkpoint_every=1) if into else {}
    trainer = make_trainer(**options)
    with pytest.raises(UsageError, match="not finite.*--learning_rate"):
        trainer.fit([Break(7)])
    if into:
        assert trainer.store.steps() == [5]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_checkpoints_are_kept(keep, tmp_path):
    make_trainer(tmp_path, checkpoint_every=1, keep_checkpoints=keep).fit()
    assert names(tmp_path) == ["step-000000005", "step-000000010", "step-000000015"][-keep:]


def test_a_save_that_was_cut_off_is_never_taken(tmp_path, said):
    aside = tmp_path / "checkpoints" / "unfinished-99"
    aside.mkdir(parents=True)
    (aside / "variables.index").touch()
    trainer = make_trainer(tmp_path, epochs=1)
    assert trainer.restore() == 0
    trainer.fit()
    assert names(tmp_path) == ["step-000000005"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), "tensorflow"])
def test_a_full_disk_keeps_the_older_checkpoint_and_the_training_going(error, tmp_path, said, monkeypatch):
    if error == "tensorflow":
        error = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    trainer = make_trainer(tmp_path, checkpoint_every=1)
    write = trainer.store.checkpoint.write

    def fail_after_half(prefix):
        write(prefix)
        if "unfinished-10" in prefix or "unfinished-15" in prefix:
            cut_off(pathlib.Path(prefix + ".data-00000-of-00001"))
            raise error

    monkeypatch.setattr(trainer.store.checkpoint, "write", fail_after_half)
    trainer.fit()
    assert trainer.step == 15
    assert names(tmp_path) == ["step-000000005"]
    assert len(said) == 2
    assert "step 10 could not be saved" in said[0]
    assert "No space left on device" in said[0]
    assert "that of step 5 stays" in said[0]
    assert make_trainer(tmp_path).restore() == 5


def test_ctrl_c_within_a_training(tmp_path, said):
    class Interrupt(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match="after step 2 of 15.*step-000000002 is kept: the same command goes on") as e:
        make_trainer(tmp_path).fit([Interrupt()])
    assert e.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert names(tmp_path) == ["step-000000002"]
    assert (
        json.loads((tmp_path / "checkpoints" / names(tmp_path)[0] / "facts.json").read_text())["means"]["count"]
        == 2
    )


# Options


def test_warm_up_rises_in_a_line_to_the_peak_and_then_follows_the_cosine():
    config = Config().replace(warmup_epochs=2.5, learning_rate=0.3, final_learning_rate=0.01)
    schedule = make_schedule(config, 64, total_steps=100, steps_per_epoch=4)
    found = [float(schedule(step)) for step in range(101)]
    # 64 pictures a step: the peak is 0.3; ten steps up, then 90 of a cosine from 0.3 to 0.003.
    expected = [0.03 * step for step in range(10)]
    expected += [0.003 + 0.297 * 0.5 * (1 + np.cos(np.pi * step / 90)) for step in range(91)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)  # float32


def test_no_warm_up_by_default():
    schedule = make_schedule(Config(), 64, total_steps=100, steps_per_epoch=4)
    assert float(schedule(0)) == pytest.approx(0.3)


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=loss_scaling)])
def test_precision_leaves_weights_outputs_and_policy_in_float32(precision):
    trainer = make_trainer(precision=precision, epochs=1)
    layers = [layer for layer in trainer.model.encoder.layers if layer.weights]
    assert {layer.compute_dtype for layer in layers} == {precision, "float32"}  # normalisation is the latter
    assert {tf.as_dtype(w.dtype).name for w in trainer.model.weights} == {"float32"}
    assert trainer.model(tf.zeros([2, 16, 16, 3])).dtype == tf.float32
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    trainer.fit()
    plain = make_trainer(epochs=1)
    plain.fit()
    figures = [{k: v / t.means.count for k, v in t.means.sums.items()} for t in (plain, trainer)]
    # bfloat16 has 8 bits of mantissa: the loss of 5 steps moves in the third digit. With float16 one of the
    # five is left out, until the scale of the loss has come down from 2^15: 2.7 % was seen.
    tolerance = {"bfloat16": 0.02, "float16": 0.06}[precision]
    assert figures[1]["loss"] == pytest.approx(figures[0]["loss"], rel=tolerance)
    assert figures[1]["loss"] != figures[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("block", [0, 10])
def test_a_compiled_training_gives_the_same(block):
    # A ReLU that rounding switches changes a gradient for good: with AVX-512 one moved weights by 0.11 times the
    # learning rate.
    options = dict(epochs=1, learning_rate=0.001, loss_block_size=block)
    compiled, plain = make_trainer(jit_compile="on", **options), make_trainer(**options)
    compiled.fit()
    plain.fit()
    for name, value in plain.means.sums.items():
        assert compiled.means.sums[name] == pytest.approx(value, rel=1e-4, abs=1e-5)
    for a, b in zip(plain.model.get_weights(), compiled.model.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


def test_compilation_and_float16_are_refused_under_several_replicas():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with pytest.raises(UsageError, match="auto and off. Received: on with 2 replicas"):
        trainer.compiles("on", strategy)
    assert not trainer.compiles("auto", strategy)
    with pytest.raises(UsageError, match="float32 and bfloat16. Received: float16 with 2"):
        trainer.with_loss_scaling(tf.keras.optimizers.SGD(), "float16", 2)


@pytest.mark.parametrize(
    ("batch", "replicas", "words"),
    [(10, 4, "8 or 12. Received: 10"), (3, 4, "replicas: 4. Received: 3"), (7, 2, "6 or 8. Received: 7")],
)
def test_a_batch_that_replicas_cannot_share_is_refused_with_the_nearest(batch, replicas, words):
    with pytest.raises(UsageError, match=words):
        trainer.global_batch_size(Config().replace(batch_size=batch), 100, replicas)
