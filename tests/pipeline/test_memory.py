"""What a plan says of memory, beside the memory that a whole run takes in a process of its own."""

import sys

import pytest

from bench.memory import Case, peaks


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in kB on Linux")
@pytest.mark.parametrize("model", ["llama", "mixtral", "gpt2"])
def test_the_planned_peak_is_within_half_of_the_measured_one(tmp_path, model):
    # Fewer samples than are there: losses are taken of the rest.
    found = peaks(Case(model, {"samples": 12, "token_budget": 3072}, size="small"), tmp_path)
    assert found.measured > 1.5 * found.libraries, "too small a model to tell"
    assert found.measured / 1.5 < found.planned < 1.5 * found.measured
