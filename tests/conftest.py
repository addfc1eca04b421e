"""Settings of the whole suite."""

import os
import signal

# Before the hub's library is imported, which reads it then: no test asks a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell that starts the suite in the background has it ignore Ctrl-C, and whatever it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings
from transformers import AutoModelForCausalLM

import hcnr
from pairs import config, write_pair
from wholes import write_learned

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


@pytest.fixture(scope="session")
def learned(pair, tmp_path_factory):
    """The pair with a tuned model that has learned the task, and more task samples than used."""
    return write_learned(pair, tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="session")
def loaded(pair):
    """Both models of the pair in memory, for tests that leave them as they are."""
    return {role: AutoModelForCausalLM.from_pretrained(pair[role]) for role in ("base", "tuned")}
