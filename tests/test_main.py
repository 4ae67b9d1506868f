"""The command line: help, refusals in one line, pipes, and the main job."""

import csv
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import types
from importlib import metadata

import numpy as np
import pytest
from absl.testing import flagsaver
from config_fields import FIELDS

from mcl_tf.config import Config
from mcl_tf.errors import TrainingInterrupted
from mcl_tf.score_file import COLUMNS
from mcl_tf.tables.plans import TableOptions

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUICK = ("--encoder=small", "--width=0.25", "--projection_hidden=16", "--epochs=2", "--batch_size=32")


def run(*arguments, timeout=240):
    """Run the command line in a process of its own."""
    command = [sys.executable, "main.py", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def run_into_head(*arguments, timeout=240):
    """Run the command line piped into `head -1`; the exit code is that of the command line."""
    script = '"$@" | head -1; exit "${PIPESTATUS[0]}"'
    command = ["bash", "-c", script, "bash", sys.executable, "main.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def refused(result):
    """Return the only line on the standard error of a refused command."""
    assert result.returncode == 2, result.stderr
    return only_line(result.stderr)


def only_line(text):
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.fixture
def call_main(monkeypatch):
    """Call `main.main` in this process; flags, logging and environment are restored at the end of the test."""
    import main

    logger = logging.getLogger("mcl_tf")
    before = list(logger.handlers), logger.level, logger.propagate
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    with flagsaver.flagsaver():
        yield lambda *arguments: main.main(["main.py", *arguments])
    logger.handlers[:], logger.level, logger.propagate = before


# Help and pipes.


def test_help_lists_every_option(call_main, capsys):
    assert call_main("--help") == 0
    text = capsys.readouterr().out
    for name in (*FIELDS, "mode", "saved_model", "images", "output", "scores", "by"):
        assert f"--{name}" in text or f"--[no]{name}" in text


def test_help_does_not_import_tensorflow():
    code = "import sys, main; main.main(['main.py', '--help']); assert 'tensorflow' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for option in ("--dataset", "--encoder", "--temperature", "--epochs", "--views", "--run_dir", "--flagfile"):
        assert option in result.stdout


def test_help_piped_into_head_ends_without_error():
    result = run_into_head("--help", timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Image anomaly detection: python main.py")


@pytest.mark.slow
def test_a_training_piped_into_head_ends_without_error(tmp_path):
    """With its results, although nobody reads its output."""
    result = run_into_head("--dataset=digits", *QUICK, "--width=0.0625", "--epochs=1", f"--run_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr
    assert result.stdout.startswith("digits: 119 training images of 0")
    assert set(json.loads((tmp_path / "metrics.json").read_text())) > {"one_view", "self_ensemble", "threshold"}
    assert (tmp_path / "saved_model" / "1" / "saved_model.pb").exists()


# Refusals.


@pytest.mark.parametrize(
    ("argument", "received"),
    [
        ("--views=5", "0, 1, 2, 4 or 8. Received: 5"),
        ("--encoder=vgg", "convnext_tiny or a file FILE.keras. Received: 'vgg'"),
        ("--temperature=-1", "a number from 0.001 to 100. Received: -1"),
        ("--temperature=nan", "Received: nan"),
        ("--epochs=many", "many"),
        ("--batch_size=0", "an integer from 1 to"),
        ("--shrinkage=2", "ledoit_wolf, none or a number from 0 to 1. Received: '2'"),
        ("--shrinkage=half", "Received: 'half'"),
        ("--normal=", "normal"),
        ("--no_such_flag=1", "no_such_flag"),
        ("stray", "stray"),
        ("--flagfile=nowhere.flags", "nowhere.flags"),
        ("--images=shots", "--images needs --mode=score or --mode=threshold. Received: --mode=train"),
        (
            "--saved_model=model",
            "--saved_model needs --mode=score or --mode=threshold or --mode=drift. Received: --mode=train",
        ),
        ("--output=scores.csv", "--output needs --mode=score or --mode=drift. Received: --mode=train"),
        ("--mode=score", "--mode=score needs --saved_model, --images, --output. Received: no --saved_model"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(argument, received):
    assert received in refused(run(argument))


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        (("--dataset=cifar11",), "Received: cifar11"),
        (("--dataset=digits", "--normal=12"), "Received: 12"),
        (("--dataset=digits", "--normal=all"), "no anomaly"),
    ],
)
def test_a_wrong_dataset_or_class_is_refused_in_one_line(arguments, received, call_main, tmp_path, capfd):
    assert call_main(*arguments, f"--run_dir={tmp_path / 'run'}", f"--data_dir={tmp_path}") == 2
    assert received in only_line(capfd.readouterr().err)
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
def test_a_wrong_tf_config_is_refused_in_one_line(name, call_main, tmp_path, monkeypatch, capfd):
    description, received = WRONG_CLUSTERS[name]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if description:
        monkeypatch.setenv("TF_CONFIG", description)
    monkeypatch.chdir(tmp_path)
    assert call_main("--dataset=digits", "--strategy=multi_worker", "--run_dir=run") == 2
    line = only_line(capfd.readouterr().err)
    assert line.startswith("strategy multi_worker reads TF_CONFIG, for example {")
    assert f"Received: {received}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_wrong_tf_config_ends_the_process_with_code_2(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{not JSON")
    assert "which is not JSON" in refused(run("--dataset=digits", "--strategy=multi_worker"))


@pytest.mark.parametrize("preset", sorted((ROOT / "flags" / "presets").glob("*.flags")), ids=lambda p: p.stem)
def test_presets_have_known_flags_only(preset):
    # An unknown flag is refused before the training; one in the preset would be named first.
    result = run(f"--flagfile={preset}", "--dataset=digits", "--normal=0", "--noanomaly_dataset", timeout=60)
    assert "noanomaly_dataset" in refused(result)


# The main job.


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the main job on the digits with an evaluation during training: (command, directory, result)."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    command = ("--dataset=digits", "--normal=0", *QUICK, f"--run_dir={directory}")
    return command, directory, run(*command, "--evaluate_every=1")


@pytest.mark.slow
def test_the_main_job_writes_all_results(finished):
    _, directory, result = finished
    assert result.returncode == 0, result.stderr
    metrics = json.loads((directory / "metrics.json").read_text())
    last = result.stdout.strip().splitlines()[-1]
    for part in ("one_view", "self_ensemble"):
        assert f"{metrics[part]['auroc']:.4f}" in last
        assert 0.0 <= metrics[part]["auroc_low"] <= metrics[part]["auroc"] <= metrics[part]["auroc_high"] <= 1.0
    ensemble = metrics["self_ensemble"]
    interval = f"{ensemble['auroc']:.4f} (95 % interval {ensemble['auroc_low']:.4f} to {ensemble['auroc_high']:.4f})"
    assert f"{interval} with SEI (8 views)" in last
    assert {row["class"] for row in metrics["anomalous_classes"]} == set("123456789")
    assert str(directory / "saved_model" / "1") in last
    assert "digits, normal class 0" in last
    assert metrics["images"] == {"train": 100, "calibration": 19, "test_normal": 59, "test_anomalous": 540}
    for name in (
        "config.json",
        "report.png",
        "report.html",
        "checkpoints/step-000000006/variables.index",
        "saved_model/1/saved_model.pb",
    ):
        assert (directory / name).stat().st_size > 0
    assert list((directory / "train").glob("events*"))
    assert list((directory / "evaluation").glob("events*"))
    assert list((directory / "result").glob("events*"))


@pytest.mark.slow
def test_the_written_scores_have_the_written_metrics(finished):
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    _, directory, _ = finished
    with open(directory / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 599
    assert all((row["is_anomaly"] == "1") == (row["label"] != "0") for row in rows)
    is_anomaly = np.array([row["is_anomaly"] == "1" for row in rows])
    scores = np.array([float(row["score"]) for row in rows])
    metrics = json.loads((directory / "metrics.json").read_text())
    false_rate, true_rate, _ = roc_curve(is_anomaly, scores, drop_intermediate=False)
    expected = {
        "auroc": roc_auc_score(is_anomaly, scores),
        "aupr_anomaly": average_precision_score(is_anomaly, scores),
        "aupr_normal": average_precision_score(~is_anomaly, -scores),
        "fpr_at_95_tpr": false_rate[true_rate >= 0.95].min(),
    }
    found = metrics["self_ensemble"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    for row in metrics["anomalous_classes"]:
        chosen = ~is_anomaly | np.array([other["label"] == row["class"] for other in rows])
        assert row["auroc"] == pytest.approx(roc_auc_score(is_anomaly[chosen], scores[chosen]), abs=1e-12)


@pytest.mark.slow
def test_the_same_command_resumes(finished, call_main, capsys):
    command, directory, _ = finished
    before = (directory / "metrics.json").read_text()
    assert call_main(*command) == 0
    assert "Resuming after epoch 2 of 2" in capsys.readouterr().out
    assert (directory / "metrics.json").read_text() == before


@pytest.mark.slow
def test_another_command_for_the_same_run_is_refused(finished, call_main, capfd):
    command, directory, _ = finished
    before = (directory / "metrics.json").read_text()
    assert call_main(*command, "--epochs=3") == 2
    assert "epochs: 2, not 3" in only_line(capfd.readouterr().err)
    assert (directory / "metrics.json").read_text() == before


def test_other_options_of_a_run_are_refused_before_tensorflow_is_imported(tmp_path):
    (tmp_path / "config.json").write_text(Config().replace(seed=3).to_json())
    options = [f"--run_dir={tmp_path}", "--seed=3", "--learning_rate=0.1"]
    code = "import sys, main; code = main.main(sys.argv); assert 'tensorflow' not in sys.modules; sys.exit(code)"
    result = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "(learning_rate: 0.3, not 0.1)" in refused(result)


@pytest.mark.slow
def test_a_diverging_training_ends_in_one_line_and_keeps_the_checkpoints(call_main, tmp_path, capsys):
    command = ("--dataset=digits", *QUICK, "--learning_rate=1e6", "--weight_decay=1", "--epochs=20")
    assert call_main(*command, "--checkpoint_every=1", f"--run_dir={tmp_path}") == 2
    line = only_line(capsys.readouterr().err)
    assert "is not finite" in line
    assert "the last good checkpoint is kept" in line


@pytest.fixture
def every_training_collapses(monkeypatch):
    from mcl_tf.training import callbacks

    monkeypatch.setattr(callbacks, "COLLAPSED", 10.0)
    monkeypatch.setattr(callbacks, "_PATIENCE", 1)


@pytest.mark.slow
def test_a_training_that_collapses_twice_ends_in_one_line_without_a_model(
    every_training_collapses, call_main, tmp_path, capfd
):
    command = ("--dataset=digits", *QUICK, "--epochs=1", f"--run_dir={tmp_path}")
    for messages in (1, 0):  # the second run does not repeat the first start
        assert call_main(*command) == 2
        output = capfd.readouterr()
        assert "It did so again with gentler settings, so that there is no detector" in only_line(output.err)
        assert "Try score local, which trains no network" in output.err
        assert output.out.count("Starting again with learning_rate 0.03 and clip_norm 1.") == messages
        assert not {"detector", "saved_model", "metrics.json"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_both_scores_fall_back_to_the_local_one(every_training_collapses, call_main, tmp_path, capfd):
    command = ("--dataset=digits", *QUICK, "--epochs=1", "--score=both", f"--run_dir={tmp_path}")
    assert call_main(*command) == 0
    output = capfd.readouterr()
    assert output.err == ""
    assert output.out.count("It did so again with gentler settings. Only the local score is used.") == 1
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    card = json.loads((tmp_path / "saved_model" / "1" / "assets.extra" / "model_card.json").read_text())
    for record in (metrics, card):
        assert (record["score"], record["restarts"]) == ("local", 1)
    assert json.loads((tmp_path / "config.json").read_text())["scoring"]["score"] == "both"
    # A zero differs from other digits in its texture.
    assert metrics["self_ensemble"]["auroc"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ((), "Stopped; the same command resumes from the newest checkpoint, if there is one"),
        (
            ("--mode=score", "--saved_model=model", "--images=shots", "--output=scores.csv"),
            "Stopped; the scores so far are in --output: the same command with --resume continues from there",
        ),
    ],
    ids=["train", "score"],
)
def test_ctrl_c_says_how_to_resume(arguments, advice, call_main, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mcl_tf.file_scoring.score_files", interrupt)
    monkeypatch.setattr("mcl_tf.experiment.run", interrupt)
    assert call_main(*arguments) == 130
    assert capsys.readouterr().err.splitlines()[-1] == advice


def test_an_interrupted_training_gives_its_exit_code(call_main, monkeypatch, capsys):
    def stop(config):
        raise TrainingInterrupted("Stopped after step 3 of 9", 143)

    monkeypatch.setattr("mcl_tf.experiment.run", stop)
    assert call_main() == 143
    assert capsys.readouterr().err == "Stopped after step 3 of 9\n"


def test_a_table_is_run_with_its_options(call_main, monkeypatch):
    calls = []
    monkeypatch.setattr("mcl_tf.tables.runner.run", lambda *arguments: calls.append(arguments))
    assert call_main("--normal=each", "--seeds=3,4", "--epochs=1") == 0
    assert calls == [(Config().replace(normal=("each",), epochs=1), TableOptions(seeds=(3, 4)))]


def test_warnings_and_messages_of_the_library_are_printed(call_main, monkeypatch, capsys):
    def log(config):
        logging.getLogger("mcl_tf.experiment").info("a message")
        logging.getLogger("mcl_tf.training").warning("a warning")
        logging.getLogger("mcl_tf.training").error("an error")
        logging.getLogger("mcl_tf").debug("a detail")

    monkeypatch.setattr("mcl_tf.experiment.run", log)
    assert call_main() == 0
    assert capsys.readouterr() == ("a message\nWarning: a warning\n", "an error\n")


def test_score_mode_passes_its_flags_to_score_files(call_main, monkeypatch):
    calls = []
    monkeypatch.setattr("mcl_tf.file_scoring.score_files", lambda **arguments: calls.append(arguments))
    files = {"saved_model": "model", "images": "shots", "output": "scores.csv"}
    options = (f"--{name}={value}" for name, value in files.items())
    assert call_main("--mode=score", *options, "--resume", "--scoring_batch_size=16") == 0
    assert calls == [{**files, "resume": True, "batch_size": 16, "heatmaps": ""}]


def test_threshold_mode_passes_its_flags_to_choose_threshold(call_main, monkeypatch):
    calls = []
    monkeypatch.setattr("mcl_tf.file_scoring.choose_threshold", lambda **arguments: calls.append(arguments))
    options = ("--saved_model=model", "--images=examples", "--normal=good,fine", "--target=fpr=0.01")
    assert call_main("--mode=threshold", *options) == 0
    assert calls == [{"saved_model": "model", "images": "examples", "normal": ["good", "fine"], "target": "fpr=0.01"}]


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ((), "needs --saved_model, --images and --normal. Received: no --normal"),
        (("--normal=good",), "needs --saved_model, --images. Received: no --saved_model"),
        (("--normal=good", "--saved_model=model"), "needs --saved_model, --images. Received: no --images"),
    ],
)
def test_threshold_mode_needs_its_flags(arguments, received, call_main, capsys):
    assert call_main("--mode=threshold", *arguments) == 2
    assert received in only_line(capsys.readouterr().err)


# A folder of images.


@pytest.mark.slow
def test_drift_mode_reports_without_tensorflow(tmp_path):
    """A file of scores alone is enough: every held-out image is as likely as the others to be the next higher one."""
    rows = [f"{index}.png,{index},0,{(index % 20 + 1) / 20:.9g},0,a,,9 bytes of 5,m1" for index in range(40)]
    (tmp_path / "scores.csv").write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    code = (
        "import sys, main; code = main.main(['main.py', '--mode=drift', '--by=none', *sys.argv[1:]]); "
        "assert 'tensorflow' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", code, f"--scores={tmp_path / 'scores.csv'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    heading, row, conclusion = result.stdout.splitlines()
    assert heading.split()[:3] == ["group", "images", "distance"]
    assert row.split()[:3] == ["all", "40", "0.050"]  # 2 of 40 scores are above all of 19
    assert conclusion.startswith("No drift is seen in these images")
    message = refused(run("--mode=drift", "--scores=missing.csv"))
    assert message == "The scores missing.csv cannot be read: No such file or directory"


def test_a_wrong_folder_is_refused_in_one_line(image_folder, call_main, tmp_path, capfd):
    folder = shutil.copytree(image_folder, tmp_path / "set")
    command = (f"--dataset={folder}", "--normal=good", f"--run_dir={tmp_path / 'run'}")
    for name in ("train/good/4.jpeg", "test/cut/ü, 1.jpg"):
        contents = (folder / name).read_bytes()
        (folder / name).write_bytes(contents[: len(contents) // 2])
    assert call_main(*command) == 2
    line = only_line(capfd.readouterr().err)
    assert line.startswith(f"{folder}/test/cut/ü, 1.jpg is a JPEG that cannot be decoded")
    assert line.endswith("At most 0.01 of the 5 images may be unreadable")
    shutil.rmtree(folder / "train")
    assert call_main(*command) == 2
    assert "no train images" in only_line(capfd.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_main_job_on_a_folder(image_folder, call_main, tmp_path):
    options = ("--normal=good", *QUICK, "--batch_size=4", "--image_size=16", f"--run_dir={tmp_path}")
    assert call_main(f"--dataset={image_folder}", *options) == 0
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        rows = {row["id"]: (row["label"], row["is_anomaly"]) for row in csv.DictReader(file)}
    assert rows == {
        "test/cut/0/9.png": ("cut", "1"),
        "test/cut/ü, 1.jpg": ("cut", "1"),
        **{f"test/good/{index}.png": ("good", "0") for index in range(3)},
    }
    # Every test image is shown, and the two of the only other class are told apart.
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f'alt="{name}, class {label}, ' in page for name, (label, _) in rows.items())
    assert '<th scope="row"><bdi>cut</bdi></th>' in page
    # The options and the image size are recorded.
    assert json.loads((tmp_path / "config.json").read_text())["data"]["dataset"] == str(image_folder)
    assert json.loads((tmp_path / "detector" / "config.json").read_text())["image_size"] == 16


# Other people's environments.

BARE = """
import os, sys, tempfile
tempfile._candidate_tempdir_list = lambda: [os.environ["TMPDIR"]] if "TMPDIR" in os.environ else []
import main
sys.exit(main.main(sys.argv))
"""


@pytest.mark.slow
def test_scoring_without_standard_error_temporary_files_and_unicode(tiny_export, image_folder, tmp_path):
    output = tmp_path / "得分.csv"
    options = [
        f"--saved_model={tiny_export / 'saved_model'}",
        f"--images={image_folder / 'test'}",
        f"--output={output}",
    ]
    command = ["bash", "-c", '"$@" 2>&-', "bash", sys.executable, "-c", BARE, "--mode=score", *options]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    environment.pop("TMPDIR", None)
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stdout
    assert "5 files were scored into" in result.stdout
    assert "\\u5f97\\u5206.csv" in result.stdout
    assert len(output.read_text(encoding="utf-8").splitlines()) == 6


def test_a_system_without_any_writable_folder_is_refused_in_one_line(call_main, monkeypatch, capfd):
    import main

    def fail():
        raise FileNotFoundError("No usable temporary directory found in ['/tmp']")

    # Not in the module itself, which pytest needs, too.
    monkeypatch.setattr(main, "tempfile", types.SimpleNamespace(gettempdir=fail))
    monkeypatch.setattr(main, "MEMORY", "/nowhere")
    assert call_main("--dataset=digits") == 2
    line = only_line(capfd.readouterr().err)
    assert line.startswith("TMPDIR must be a writable folder for temporary files. Received: No usable temporary")


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 2), (">&-", 2), (">&- 2>&- <&-", 2)])
def test_closed_streams_leave_the_exit_code(closed, code):
    command = ["bash", "-c", f'"$@" {closed}', "bash", sys.executable, "main.py", "--views=5"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == code
    assert ("Received: 5" in result.stderr) == ("2>&-" not in closed)


@pytest.mark.parametrize(
    ("environment", "received"),
    [({"KERAS_BACKEND": "jax"}, "jax"), ({"TF_USE_LEGACY_KERAS": "1"}, "TF_USE_LEGACY_KERAS=1")],
)
@pytest.mark.skipif(not metadata.version("keras").startswith("3."), reason="Keras 2 ignores these variables")
def test_another_keras_is_refused_in_one_line(environment, received):
    environment = {**os.environ, **environment}
    command = [sys.executable, "main.py", "--dataset=digits"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert received in refused(result)
