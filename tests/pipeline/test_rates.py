"""Rates of this machine, from which a plan tells times."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from hcnr.pipeline import rates


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may want the machine in the first, the last or all but one of them."""
    for took in itertools.permutations((9.0, 7.0, 2.0, 30.0)):
        clock = iter([second for each in took for second in (100.0, 100.0 + each)])
        monkeypatch.setattr(rates, "time", SimpleNamespace(perf_counter=clock.__next__))
        assert rates._timed(lambda: None, torch.device("cpu")) == 2.0
