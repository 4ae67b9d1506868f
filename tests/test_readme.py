"""Every line of code in README.md runs or, where it would take long or needs a service, has known flags and files."""

import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest
from absl import flags as absl_flags

import flags
import mcl_tf
from mcl_tf.config import Config
from tests.helpers import ROOT
from tests.test_flags import parse_flags

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = README + (ROOT / "BUILD.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
INLINE = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", PROSE)]


def blocks(text, language):
    """Return the contents of the blocks of code of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    """Return the words of the commands in the shell blocks, without comments."""
    lines = "\n".join(blocks(text, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if "curl" not in line]


def arguments_of(text, *program):
    """Return the arguments of every call of a program."""
    return [words[len(program) :] for words in text if words[: len(program)] == list(program)]


MAIN = arguments_of(commands(DOCUMENTS), ".venv/bin/python", "main.py")


def test_there_are_commands():
    assert len(MAIN) >= 7
    assert len(blocks(README, "python")) == 1


@pytest.mark.parametrize("arguments", MAIN, ids=" ".join)
def test_commands_have_known_flags(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)  # presets are relative to it
    values = parse_flags(*arguments)
    flags.refuse_other_modes(values)
    by_mode = {
        "train": flags.config_from_flags,
        "score": flags.score_files_arguments,
        "threshold": flags.threshold_arguments,
        "drift": flags.drift_arguments,
    }
    by_mode[values["mode"].value](values)


def test_other_commands_have_files_and_known_options():
    makefile = (ROOT / "Makefile").read_text()
    for target, *_ in arguments_of(commands(DOCUMENTS), "make"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    (beam,) = arguments_of(commands(README), ".venv/bin/python", "-m", "mcl_tf.beam")
    source = (ROOT / "mcl_tf" / "beam.py").read_text()
    for option in beam:
        assert f'"{option.split("=")[0]}"' in source, option
    for words in commands(README):
        for word in words:
            if re.fullmatch(r"(deploy|flags|docs)/\S+", word):
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("code", [code for code in INLINE if code.startswith(("main.py", "--"))])
def test_flags_in_the_text_are_known(code, monkeypatch):
    monkeypatch.chdir(ROOT)
    for word in (word for word in shlex.split(code) if word.startswith("--")):
        name = word[2:].split("=")[0]
        known = {"flagfile", *absl_flags.FLAGS}
        assert known & {name, name.removeprefix("no")}, word
        if "=" in word:
            parse_flags(word)


@pytest.mark.slow
def test_the_python_code_runs(tmp_path, tiny_export, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (44, 16, 16, 3)).astype(np.uint8)
    names = {"normal_images": noise[:40], "images": noise[38:], "examples": noise[38:], "is_anomaly": [0, 1] * 3}
    detector_class = mcl_tf.AnomalyDetector
    tiny = {"width": 0.25, "projection_hidden": 8, "projection_dim": 4, "views": 1}
    monkeypatch.setattr(
        mcl_tf, "AnomalyDetector", lambda **options: detector_class(**{**options, **tiny}), raising=False
    )
    (code,) = blocks(README, "python")
    exec(code, names)
    assert names["scores"].shape == names["anomalies"].shape == (6,)
    assert pathlib.Path("models/parts/1/saved_model.pb").exists()
    assert detector_class.load("detector").threshold_ == names["detector"].threshold_


def test_the_python_code_in_the_text_runs(tmp_path, tiny_export, tiny_detector, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_export / "saved_model", tmp_path / "runs" / "cifar10-0" / "saved_model")
    code = [code for code in INLINE if code.startswith("mcl_tf.")]
    assert len(code) == 2
    for expression in code:
        eval(expression, {"mcl_tf": mcl_tf, "encoder": tiny_detector.scorer_.encoder})
    assert pathlib.Path("runs/cifar10-0/saved_model/2/saved_model.pb").exists()


def test_presets_in_the_text_exist():
    for name in re.findall(r"[\w/]*\w+\.flags", README):
        assert (ROOT / "flags" / "presets" / pathlib.Path(name).name).exists(), name


def test_options_of_the_python_code_are_options():
    for code in blocks(README, "python"):
        for call in re.findall(r"AnomalyDetector\((.*)\)", code):
            assert set(re.findall(r"(\w+)=", call)) <= set(Config().flat())
