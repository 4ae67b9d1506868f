"""All settings are in pyproject.toml; this file is for tools that still need it."""

from setuptools import setup

setup()
