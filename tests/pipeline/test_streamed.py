"""Weights that are read when their block runs: the same bytes, and never more of them at once."""

import os
from typing import Any

import pytest
import torch

import hcnr
from hcnr.config import RestoreConfig
from hcnr.errors import ConfigError, ModelError
from hcnr.models.device_memory import GIB, STREAMED
from hcnr.models.directory import DirectorySource
from hcnr.models.streamed import opening
from hcnr.models.streamed.units import residence
from hcnr.plan import plan_run
from hcnr.record.writing import read_report
from pairs import config, hashes, write_pair

LOOSE = {"max_task_drop_percent": 90}
CASES: dict[str, dict[str, Any]] = {
    "none": {"compensation": "none"},
    "sum": {"compensation": "sum", "memory_budget": 0.00006},
    "balanced": {"compensation": "balanced", "task_weight": "auto", "axis": "input", **LOOSE},
    "spectral": {"compensation": "spectral", "task_weight": 2.0, "memory_budget": 0.0002},
    "default": {"compensation": "spectral", "task_weight": "auto", **LOOSE},
    "mixed": {"compensation": "interpolate", "coefficient": 0.5},
}
SOME = 0.00004
"""GiB that hold a block of the small pair and what is no block, and not two blocks."""


def settings(**own: Any) -> RestoreConfig:
    return RestoreConfig(**{"samples": 16, "token_budget": 64, "device": "cpu", **own})


@pytest.fixture
def loads(monkeypatch):
    """Bytes of weights that were put into a model and are in it, and the most there were."""
    now, most = {}, []
    before, after = opening._UnitHook.pre_forward, opening._UnitHook.post_forward

    def loaded(self, module, *args, **kwargs):
        found = before(self, module, *args, **kwargs)
        now[self._unit] = sum(p.nbytes for p in module.parameters() if not p.is_meta)
        most.append(sum(now.values()))
        return found

    def let_go(self, module, output):
        found = after(self, module, output)
        assert all(p.is_meta for p in module.parameters())
        now.pop(self._unit)
        return found

    monkeypatch.setattr(opening._UnitHook, "pre_forward", loaded)
    monkeypatch.setattr(opening._UnitHook, "post_forward", let_go)
    return most


@pytest.mark.parametrize("name", CASES)
def test_a_streamed_model_is_restored_to_the_same_bytes(learned, tmp_path, loads, name):
    whole = hcnr.restore(**learned, out=tmp_path / "whole", config=settings(**CASES[name]))
    assert loads == []
    places = {"disk": None} if name == "mixed" else {"disk": None, "auto": SOME}
    for place, most in places.items():
        placed = settings(**CASES[name], device_map=place, max_memory=most)
        out = hcnr.restore(**learned, out=tmp_path / place, config=placed)
        assert hashes(out) == hashes(whole)
        assert read_report(out)["verdict"] == read_report(whole)["verdict"]
        held = residence(DirectorySource(learned["tuned"]).structure, placed)
        assert 0 < max(loads) <= max(held.streamed.values())
        loads.clear()
