"""Build hook: the project's metadata is in pyproject.toml; a native extension is added here."""

from setuptools import setup

setup(ext_modules=[])
