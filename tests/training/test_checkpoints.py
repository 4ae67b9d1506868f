"""Checkpoints: damaged ones are set aside, foreign ones refused, failed saves harmless."""

import json
import pathlib
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from mcl_tf.config import Config
from mcl_tf.errors import UsageError
from mcl_tf.training import checkpoints
from mcl_tf.training.checkpoints import CheckpointSchedule, CheckpointStore
from tests.training.training_helpers import checkpoint_names, make_trainer, network_weights, requires_loss_scaling


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A run directory with the checkpoints of steps 5, 10 and 15."""
    directory = tmp_path_factory.mktemp("trained")
    make_trainer(directory, checkpoint_every=1).fit()
    return directory


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of that run directory."""
    return shutil.copytree(trained_once, tmp_path / "run")


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "data cut off": ("variables.data-00000-of-00001", cut_off),
    "one bit of the data": ("variables.data-00000-of-00001", flip_a_bit),
    "no data": ("variables.data-00000-of-00001", pathlib.Path.unlink),
    "index cut off": ("variables.index", cut_off),
    "no index": ("variables.index", pathlib.Path.unlink),
    "metadata cut off": ("metadata.json", cut_off),
    "metadata of another step": ("metadata.json", lambda path: path.write_text('{"step": 3, "layout": {}}')),
    "metadata not an object": ("metadata.json", lambda path: path.write_text("[]")),
    "no metadata": ("metadata.json", pathlib.Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_set_aside_for_the_one_before(damage, trained, library_log):
    name, do = DAMAGES[damage]
    do(trained / "checkpoints" / "step-000000015" / name)
    assert make_trainer(trained).restore() == 10
    assert [record.levelname for record in library_log.records] == ["WARNING", "INFO"]
    assert "step-000000015 is damaged" in library_log.messages[0]
    assert "Resuming after epoch 2 of 3, " in library_log.messages[1]
    aside, *others = checkpoint_names(trained)
    assert aside.startswith("damaged-15-")
    assert others == ["step-000000005", "step-000000010"]


def test_nothing_is_overwritten_without_a_complete_checkpoint(trained):
    for path in (trained / "checkpoints").glob("*/variables.index"):
        path.unlink()
    before = checkpoint_names(trained)
    with pytest.raises(UsageError, match="No checkpoint .* is complete.*Received: steps 15, 10, 5"):
        make_trainer(trained).fit()
    assert checkpoint_names(trained) == before


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"projection_dim": 9}, r"projection_head\[2\] kernel is \[\[16, 9\], 'float32'\] here. Received: .*16, 8"),
        ({"encoder": "resnet18", "width": 0.0625}, r"encoder\[\d+\] .* here. Received: "),
        ({"ema": 0.5}, r"averages\[0\] .* here. Received: no such variable"),
        ({"precision": "float64"}, r"encoder\[0\] kernel is .*'float64'\] here. Received: .*'float32'"),
        pytest.param({"precision": "float16"}, r"optimizer\[\d+\] .* here. Received: ", marks=requires_loss_scaling),
    ],
)
def test_checkpoint_of_other_shapes_is_refused(options, difference, trained):
    before = checkpoint_names(trained)
    trainer = make_trainer(trained, **options)
    start = [w.numpy() for w in network_weights(trainer.model)]
    with pytest.raises(UsageError, match=difference) as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    assert checkpoint_names(trained) == before
    for a, b in zip(start, network_weights(trainer.model), strict=True):
        np.testing.assert_array_equal(a, b.numpy())


def test_checkpoints_of_other_code_are_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint").touch()
    with pytest.raises(UsageError, match="checkpoints of other code"):
        make_trainer(tmp_path).fit()


def test_metadata_describes_all_variables(trained):
    metadata = json.loads((trained / "checkpoints" / "step-000000015" / "metadata.json").read_text())
    assert set(metadata) == {"step", "metrics", "batch_size", "layout"}
    assert (metadata["step"], metadata["batch_size"]) == (15, 4)
    model = make_trainer().model
    parts = (network_weights(model), model.rotation_head.weights, model.optimizer.variables)
    assert len(metadata["layout"]) == sum(map(len, parts))
    assert metadata["layout"]["rotation_head[0] kernel"] == [[16, 4], "float32"]
    assert metadata["layout"]["projection_head[2] kernel"] == [[16, 8], "float32"]


@pytest.mark.parametrize(
    ("options", "due"),
    [
        # Steps of 25 seconds, two per epoch: 2 minutes are over at the fifth step after a checkpoint.
        ({}, [5, 10, 15]),
        ({"checkpoint_minutes": 0.0}, []),
        ({"checkpoint_minutes": 0.0, "checkpoint_every": 4}, [8, 16]),
        ({"checkpoint_minutes": 5.0, "checkpoint_every": 4}, [8, 16]),
        ({"checkpoint_minutes": 2.5, "checkpoint_every": 4}, [6, 8, 14, 16]),
    ],
)
def test_checkpoints_are_due_by_time_and_by_epochs(options, due, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(checkpoints, "time", types.SimpleNamespace(monotonic=lambda: now))
    schedule, found = CheckpointSchedule(Config().replace(**options).run), []
    for step in range(1, 19):
        now += 25.0
        if schedule.is_due(None if step % 2 else step // 2):
            found.append(step)
            schedule.restart()
    assert found == due


# The store alone, with one variable


def make_store(folder, keep=3):
    """Return a store of one variable, and the variable."""
    variable = tf.Variable([1.0, 2.0])
    return CheckpointStore(folder, tf.train.Checkpoint(variable=variable), {"variable": variable}, keep), variable


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_newest_checkpoints_are_kept(keep, tmp_path):
    store, variable = make_store(tmp_path, keep)
    for step in (5, 10, 15):
        variable.assign([float(step), 0.0])
        assert store.save(step, {"note": f"step {step}"})
    assert store.steps() == [15, 10, 5][:keep]
    variable.assign([0.0, 0.0])
    assert store.restore()["note"] == "step 15"
    np.testing.assert_array_equal(variable, [15.0, 0.0])
    assert make_trainer(tmp_path, keep_checkpoints=keep).store.keep == keep


def test_saved_step_is_not_saved_again(tmp_path):
    store, variable = make_store(tmp_path)
    store.save(5, {})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    variable.assign([0.0, 0.0])
    assert store.save(5, {})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_interrupted_save_is_ignored_and_removed(tmp_path):
    unfinished = tmp_path / ".step-000000099.0123456789ab.mcl_tf.tmp"
    unfinished.mkdir()
    (unfinished / "variables.index").touch()
    store, _ = make_store(tmp_path)
    assert store.restore() is None
    store.save(5, {})
    assert store.restore()["step"] == 5
    store.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]


def test_training_removes_interrupted_saves(tmp_path):
    unfinished = tmp_path / "checkpoints" / ".step-000000099.0123456789ab.mcl_tf.tmp"
    unfinished.mkdir(parents=True)
    (unfinished / "variables.index").touch()
    make_trainer(tmp_path, max_steps=2).fit()
    assert checkpoint_names(tmp_path) == ["step-000000002"]


@pytest.mark.parametrize("kind", ["os", "tensorflow"])
def test_full_disk_keeps_the_older_checkpoint_and_training_continues(kind, tmp_path, library_log, monkeypatch):
    if kind == "os":
        error = OSError(28, "No space left on device")
    else:
        error = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    trainer = make_trainer(tmp_path, checkpoint_every=1)
    write = trainer.store.checkpoint.write

    def fail_after_half(prefix):
        write(prefix)
        if "step-000000005" not in prefix:
            cut_off(pathlib.Path(prefix + ".data-00000-of-00001"))
            raise error

    monkeypatch.setattr(trainer.store.checkpoint, "write", fail_after_half)
    trainer.fit()
    assert trainer.step == 15
    assert checkpoint_names(tmp_path) == ["step-000000005"]
    assert [record.levelname for record in library_log.records] == ["WARNING", "WARNING"]
    assert "step 10 could not be saved" in library_log.messages[0]
    assert "No space left on device" in library_log.messages[0]
    assert "that of step 5 is kept" in library_log.messages[0]
    assert make_trainer(tmp_path).restore() == 5
