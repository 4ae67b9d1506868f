"""The command line, as a user meets it."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = ("--encoder=small", "--width=0.25", "--projection_hidden=16", "--epochs=2", "--batch_size=32")


def run(*arguments, timeout=240):
    command = [sys.executable, "main.py", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def refused(result):
    """The one line on the standard error of a refused command."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_help_names_every_group_without_tensorflow():
    code = "import sys, main; main.main(['main.py', '--help']); assert 'tensorflow' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for flag in (
        "--dataset",
        "--normal",
        "--encoder",
        "--temperature",
        "--epochs",
        "--views",
        "--run_dir",
        "--flagfile",
    ):
        assert flag in result.stdout


@pytest.mark.parametrize(
    ("argument", "received"),
    [
        ("--views=5", "1, 4 or 8. Received: 5"),
        ("--encoder=vgg", "small, resnet18, resnet34 or resnet50. Received: 'vgg'"),
        ("--temperature=-1", "a number from 0.001 to 100. Received: -1"),
        ("--temperature=nan", "Received: nan"),
        ("--epochs=many", "many"),
        ("--batch_size=0", "an integer from 1 to"),
        ("--shrinkage=2", "ledoit_wolf, none or a number from 0 to 1. Received: 2"),
        ("--shrinkage=half", "Received: 'half'"),
        ("--normal=", "normal"),
        ("--no_such_flag=1", "no_such_flag"),
        ("stray", "stray"),
        ("--flagfile=nowhere.flags", "nowhere.flags"),
    ],
)
def test_a_bad_value_is_one_line_and_code_2(argument, received):
    assert received in refused(run(argument))


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        (("--dataset=cifar11",), "Received: cifar11"),
        (("--dataset=digits", "--normal=12"), "Received: 12"),
        (("--dataset=digits", "--normal=all"), "no anomaly"),
    ],
)
def test_a_bad_dataset_or_class_is_one_line_and_code_2(arguments, received, tmp_path):
    line = refused(run(*arguments, f"--run_dir={tmp_path / 'run'}", f"--data_dir={tmp_path}"))
    assert received in line
    assert not (tmp_path / "run").exists()


CLUSTER = '"cluster": {"worker": ["localhost:1", "localhost:2"]}'
WRONG_CLUSTERS = {
    "none": (None, "no TF_CONFIG"),
    "not JSON": ("{not JSON", "{not JSON, which is not JSON"),
    "no task": (f"{{{CLUSTER}}}", "no task of type and index"),
    "no cluster": ('{"task": {"type": "worker", "index": 0}}', "no cluster of workers"),
    "index": (
        f'{{{CLUSTER}, "task": {{"type": "worker", "index": 2}}}}',
        "the task worker 2, which the cluster does",
    ),
    "type": (
        f'{{{CLUSTER}, "task": {{"type": "boss", "index": 0}}}}',
        "the task boss 0, which the cluster does not",
    ),
}


@pytest.mark.parametrize("name", WRONG_CLUSTERS)
def test_a_wrong_tf_config_is_one_line_and_code_2(name, tmp_path, monkeypatch, capfd):
    from absl.testing import flagsaver

    import main

    description, received = WRONG_CLUSTERS[name]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if description:
        monkeypatch.setenv("TF_CONFIG", description)
    monkeypatch.chdir(tmp_path)
    with flagsaver.flagsaver():
        code = main.main(["main.py", "--dataset=digits", "--strategy=multi_worker", "--run_dir=run"])
    assert code == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("--strategy=multi_worker reads TF_CONFIG, for example {")
    assert f"Received: {received}" in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_wrong_tf_config_ends_the_process_so(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{not JSON")
    assert "which is not JSON" in refused(run("--dataset=digits", "--strategy=multi_worker"))


@pytest.mark.parametrize("preset", sorted((ROOT / "flags" / "presets").glob("*.flags")), ids=lambda p: p.stem)
def test_presets_hold_flags_that_exist(preset):
    # A flag that is not there ends the command before any training; one in the preset would be named first.
    result = run(f"--flagfile={preset}", "--dataset=digits", "--normal=0", "--noanomaly_dataset", timeout=60)
    assert "noanomaly_dataset" in refused(result)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the main job on the digits, with an evaluation during training."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    command = ("--dataset=digits", "--normal=0", *QUICK, f"--run_dir={directory}")
    return command, directory, run(*command, "--evaluate_every=1")


@pytest.mark.slow
def test_the_main_job_leaves_everything_it_promises(finished):
    _, directory, result = finished
    assert result.returncode == 0, result.stderr
    metrics = json.loads((directory / "metrics.json").read_text())
    last = result.stdout.strip().splitlines()[-1]
    for part in ("one_view", "self_ensemble"):
        assert f"{metrics[part]['auroc']:.4f}" in last
        assert set(metrics[part]) == {"auroc", "aupr_anomaly", "aupr_normal", "fpr_at_95_tpr"}
    assert str(directory / "saved_model" / "1") in last
    assert "digits, normal class 0" in last
    assert metrics["pictures"] == {"train": 107, "calibration": 12, "test_normal": 59, "test_anomalous": 540}
    for name in (
        "config.json",
        "report.png",
        "checkpoints/step-000000006/variables.index",
        "saved_model/1/saved_model.pb",
    ):
        assert (directory / name).stat().st_size > 0
    assert list((directory / "train").glob("events*"))
    assert list((directory / "evaluation").glob("events*"))


@pytest.mark.slow
def test_scores_are_those_behind_the_figure(finished):
    from sklearn.metrics import roc_auc_score

    _, directory, _ = finished
    with open(directory / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 599
    assert all((row["is_anomaly"] == "1") == (row["label"] != "0") for row in rows)
    area = roc_auc_score([int(row["is_anomaly"]) for row in rows], [float(row["score"]) for row in rows])
    metrics = json.loads((directory / "metrics.json").read_text())
    assert area == pytest.approx(metrics["self_ensemble"]["auroc"], abs=1e-4)  # six digits in the file


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_one_is_refused(finished):
    command, directory, _ = finished
    before = (directory / "metrics.json").read_text()
    line = refused(run(*command, "--epochs=3"))
    assert "epochs: 2, not 3" in line
    assert (directory / "metrics.json").read_text() == before
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert "Going on after epoch 2 of 2" in again.stdout
    assert (directory / "metrics.json").read_text() == before


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_one_line_and_keeps_the_checkpoint(tmp_path):
    command = ("--dataset=digits", *QUICK, "--learning_rate=1e6", "--weight_decay=1", "--epochs=20")
    result = run(*command, "--checkpoint_every=1", f"--run_dir={tmp_path}")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "is not finite" in result.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("mode", "advice"), [("score", "--resume goes on"), ("train", "newest checkpoint")])
def test_ctrl_c_says_how_to_go_on(mode, advice):
    code = (
        "import sys, main, mcl_tf.file_scoring, mcl_tf.experiment\n"
        "def interrupted(config): raise KeyboardInterrupt\n"
        "mcl_tf.file_scoring.score_files = mcl_tf.experiment.run = interrupted\n"
        f"sys.exit(main.main(['main.py', '--mode={mode}']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 130
    assert advice in result.stderr.splitlines()[-1]


# A folder of one's own pictures


@pytest.mark.parametrize(
    ("dataset", "normal", "expected"),
    [
        ("cifar10", ("0", "1"), "runs/cifar10-0+1"),
        ("mnist_corrupted/identity", ("0",), "runs/mnist_corrupted/identity-0"),
        ("{here}/bottle/", ("good",), "runs/bottle-good"),
        ("{here}/../{name}/bottle/.", ("good",), "runs/bottle-good"),
        (".", ("good",), f"runs/{ROOT.name}-good"),
    ],
)
def test_the_run_directory_is_named_after_the_dataset(dataset, normal, expected, tmp_path, monkeypatch):
    from mcl_tf.config import Config
    from mcl_tf.experiment import with_run_directory

    monkeypatch.chdir(ROOT)
    (tmp_path / "bottle").mkdir()
    dataset = dataset.format(here=tmp_path, name=tmp_path.name)
    assert with_run_directory(Config().replace(dataset=dataset, normal=normal)).run.run_dir == expected


def test_a_bad_folder_is_one_line_and_code_2(picture_folder, tmp_path):
    folder = shutil.copytree(picture_folder, tmp_path / "set")
    command = (f"--dataset={folder}", "--normal=good", f"--run_dir={tmp_path / 'run'}")
    for name in ("train/good/4.jpeg", "test/cut/ü, 1.jpg"):
        contents = (folder / name).read_bytes()
        (folder / name).write_bytes(contents[: len(contents) // 2])
    line = refused(run(*command))
    assert line.startswith(f"{folder}/train/good/4.jpeg is a JPEG that cannot be decoded")
    assert "1 more file" in line
    shutil.rmtree(folder / "train")
    assert "no train folder" in refused(run(*command))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_main_job_on_a_folder(picture_folder, tmp_path):
    command = (f"--dataset={picture_folder}", "--normal=good", *QUICK, "--batch_size=4", "--image_size=16")
    result = run(*command, f"--run_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = {row["id"]: (row["label"], row["is_anomaly"]) for row in csv.DictReader(file)}
    assert rows == {
        "test/cut/0/9.png": ("cut", "1"),
        "test/cut/ü, 1.jpg": ("cut", "1"),
        **{f"test/good/{place}.png": ("good", "0") for place in range(3)},
    }
    # As with every other dataset, the sizes chosen and the options given are on record.
    assert json.loads((tmp_path / "config.json").read_text())["data"]["dataset"] == str(picture_folder)
    assert json.loads((tmp_path / "detector" / "config.json").read_text())["image_size"] == 16
