"""Checks of the Python and TensorFlow versions."""

import pathlib
import sys
import types

import pytest

from mcl_tf import version


@pytest.mark.parametrize("numbers", [(3, 10, 0), (3, 11, 7), (3, 13, 9)])
def test_check_python_accepts_supported_versions(numbers):
    version.check_python(numbers)


@pytest.mark.parametrize("numbers", [(2, 7, 18), (3, 9, 18), (3, 14, 0), (4, 0, 0)])
def test_check_python_refuses_other_versions_in_one_line(numbers):
    with pytest.raises(ImportError) as error:
        version.check_python(numbers)
    text = str(error.value)
    assert "\n" not in text
    assert "3.10 to 3.13" in text
    assert "Received: Python " + ".".join(map(str, numbers)) in text


@pytest.mark.parametrize("name", ["2.15.1", "2.21.0", "2.21.0-rc1", "2.16.2"])
def test_check_tensorflow_accepts_supported_versions(name):
    version.check_tensorflow(name)


@pytest.mark.parametrize("name", ["1.15.0", "2.9.3", "2.14.1", "2.22.0", "3.0.0"])
def test_check_tensorflow_refuses_other_versions_with_range_and_fix(name):
    with pytest.raises(ImportError, match=r"2\.15 to 2\.21.*pip install.*Received: TensorFlow " + name[:3]):
        version.check_tensorflow(name)


def test_installed_tensorflow_is_checked_before_its_import(monkeypatch):
    from importlib import metadata

    def find_version(name):
        if name == "tensorflow-cpu":
            return "2.9.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", find_version)
    with pytest.raises(ImportError, match=r"Received: TensorFlow 2\.9"):
        version.check_installed_tensorflow()


def test_requirements_have_the_same_ranges():
    root = pathlib.Path(__file__).resolve().parent.parent
    (major, low), (_, high) = version.TENSORFLOW
    tensorflow = f"tensorflow>={major}.{low},<{major}.{high + 1}"
    assert tensorflow in (root / "requirements" / "tensorflow.txt").read_text().splitlines()
    (_, first), (_, last) = version.PYTHON
    project = (root / "pyproject.toml").read_text()
    assert f'requires-python = ">=3.{first},<3.{last + 1}"' in project
    assert f'"{tensorflow.replace("tensorflow", "tensorflow[and-cuda]", 1)}"' in project


@pytest.fixture
def check_settings(tmp_path, monkeypatch):
    """Call the check with an environment, a keras.json and a version of Keras that is not imported yet."""
    from importlib import metadata

    def check(environment, file=None, keras="3.15.1"):
        for name in ("KERAS_BACKEND", "TF_USE_LEGACY_KERAS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        if file is not None:
            (tmp_path / "keras.json").write_text(file)
        monkeypatch.delitem(sys.modules, "keras", raising=False)
        monkeypatch.setattr(metadata, "version", lambda name: keras)
        version.check_keras_settings()

    return check


@pytest.mark.parametrize(
    ("environment", "file", "received"),
    [
        (
            {"KERAS_BACKEND": "jax"},
            None,
            "KERAS_BACKEND=tensorflow before Keras is imported. Received: the backend jax",
        ),
        ({"KERAS_BACKEND": "torch"}, '{"backend": "tensorflow"}', "the backend torch"),
        ({}, '{"backend": "jax"}', "the backend jax"),
        ({"TF_USE_LEGACY_KERAS": "1"}, None, "Unset TF_USE_LEGACY_KERAS. Received: TF_USE_LEGACY_KERAS=1"),
        ({"TF_USE_LEGACY_KERAS": "True"}, None, "TF_USE_LEGACY_KERAS=True"),
    ],
)
def test_another_keras_is_refused_in_one_line(check_settings, environment, file, received):
    with pytest.raises(ImportError) as error:
        check_settings(environment, file)
    assert received in str(error.value)
    assert "\n" not in str(error.value)
    check_settings(environment, file, keras="2.15.0")  # which ignores these settings


@pytest.mark.parametrize(
    ("environment", "file"),
    [
        ({}, None),
        ({}, "no JSON"),
        ({}, "[]"),
        ({}, '{"floatx": "float64", "image_data_format": "channels_first"}'),
        ({"KERAS_BACKEND": "tensorflow"}, '{"backend": "jax"}'),
        ({"KERAS_BACKEND": ""}, '{"backend": "tensorflow"}'),
        ({"TF_USE_LEGACY_KERAS": "0"}, None),
    ],
)
def test_keras_on_tensorflow_is_accepted(check_settings, environment, file):
    check_settings(environment, file)


def test_an_imported_keras_is_asked_itself(monkeypatch):
    keras = types.SimpleNamespace(config=types.SimpleNamespace(backend=lambda: "tensorflow"))
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # too late to have an effect
    monkeypatch.setitem(sys.modules, "keras", keras)
    version.check_keras_settings()
