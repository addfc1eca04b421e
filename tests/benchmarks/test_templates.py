"""The prompts of the benchmarks' authors, to the character."""

import pytest

from hcnr.benchmarks.templates import fill_template, with_choices
from hcnr.errors import ConfigError


def test_templates():
    assert fill_template("unknownbench", "Why {x}?") == (
        "Answer the given question in no more than one sentence. Please keep your answer short "
        "and concise. \nWhy {x}?"
    )
    assert fill_template("selfaware", "Why?") == "Q:Why?\nA:"
    assert fill_template("kuq", "Why?") == "### Question: Why?\n### Answer: "


def test_unknown_template():
    with pytest.raises(ConfigError, match="'kuk' is unknown, expected one of unknownbench"):
        fill_template("kuk", "Why?")


def test_choices():
    assert with_choices("Which?", ["a", "b"]) == "Which?\nChoose one of these answers:\n- a\n- b"
