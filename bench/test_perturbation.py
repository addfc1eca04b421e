"""`perturbation` against the torch expression of method.md (4)."""

from collections.abc import Callable

import pytest

from bench.perturbation import CASES


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, run_case: Callable[..., None]) -> None:
    run_case(CASES[name])
