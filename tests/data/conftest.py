"""Fixtures of the tests of data."""

import shutil

import pytest


@pytest.fixture
def folder_copy(image_folder, tmp_path):
    """A copy of `image_folder` that a test may change."""
    return shutil.copytree(image_folder, tmp_path / "copy")
