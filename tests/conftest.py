"""Settings of the whole suite."""

import os

import pytest
from hypothesis import settings

import hcnr
from pairs import config, write_pair

# A run of continuous integration repeats exactly; a developer's run goes on looking.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """A pair on disk with its data; tests leave it as it is."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session")
def statistics(pair):
    """Everything measured, by axis, for the tests that only restore."""
    return {
        axis: hcnr.measure(
            **pair, config=config(axis=axis, compensation="balanced", all_hessians=True)
        )
        for axis in ("output", "input")
    }
