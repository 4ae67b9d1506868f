"""Checks of the Python and TensorFlow versions."""

import pathlib

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
