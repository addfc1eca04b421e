"""`merge` against `torch.where`."""

from collections.abc import Callable

import pytest

from bench.merge import CASES


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, run_case: Callable[..., None]) -> None:
    run_case(CASES[name])
