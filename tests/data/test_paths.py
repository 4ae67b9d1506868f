"""Names of datasets that mean folders."""

import pytest

from mcl_tf.data import paths


@pytest.mark.parametrize(
    ("name", "expected"),
    [("./set", True), ("~/set", True), ("/no/such/set", True), ("set", False), ("no/such", False), ("mnist", False)],
)
def test_recognizes_the_name_of_a_folder(name, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "inner").mkdir(parents=True)
    assert paths.is_folder(name) is expected
    assert paths.is_folder("set/inner")
