"""The registry of repairs: its entries agree with the method, and a package can add one."""

import importlib
import sys

import pytest
import torch

import hcnr
from hcnr.errors import ConfigError
from hcnr.kinds import KINDS, RepairKind, kind_names, repair_kind
from hcnr.models.pair import open_pair
from hcnr.search.grid import Grid, grid_kinds
from hcnr_kernels import Compensation
from pairs import config

CODE = """
import torch
from hcnr.kinds import RepairKind
from hcnr_kernels import Compensation

def halfway(kind, delta, mask, hessian, task_hessian, *, axis, **settings):
    assert task_hessian is None and hessian.shape == (len(mask), len(mask))
    restored = mask[:, None] if axis == "output" else mask[None]
    zero = torch.zeros(())
    status = torch.zeros((), dtype=torch.int32)
    return Compensation(torch.where(restored, 0.5 * delta, delta), zero, zero, status)

def half():
    return RepairKind("half", "neurons", "half of the change is given back", ("honesty",),
                      apply=halfway)

def shapeless():
    return RepairKind("shapeless", "neurons", "", apply=lambda *_, **__: None)

def whole():
    return RepairKind("whole", "matrices", "", bases=("spectral",))
"""
POINTS = """
[hcnr.repairs]
half = more_repairs:half
shapeless = more_repairs:shapeless
whole = more_repairs:whole
sum = more_repairs:half
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    info = folder / "more-repairs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: more-repairs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    (folder / "more_repairs.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "more_repairs", raising=False)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("more_repairs", None)


def test_entries_are_whole():
    for name, kind in KINDS.items():
        assert kind.name == name and kind.about
        assert (kind.scope == "matrices") == bool(kind.bases)
        assert not kind.needs or kind.scope == "neurons"
        assert (kind.applied() is not None) == bool(kind.needs)
        assert hcnr.RestoreConfig(compensation=name).kind is kind


@pytest.mark.parametrize("axis", ["output", "input"])
def test_a_registered_repair_is_measured_applied_and_reported(installed, pair, axis, tmp_path):
    settings = config(compensation="half", axis=axis)
    out = hcnr.restore(**pair, out=tmp_path / "out", config=settings)
    statistics = hcnr.measure(**pair, config=settings)
    chosen = hcnr.select(statistics, pair["base"], pair["tuned"], settings)
    assert chosen.selected and set(statistics.hessians["honesty"]) == set(chosen.selected)
    base, tuned = open_pair(pair["base"], pair["tuned"])
    restored = open_pair(pair["base"], out)[1]
    for name in chosen.selected:
        mask = chosen.masks[name][:, None] if axis == "output" else chosen.masks[name][None]
        ours, theirs = base.weight(name), tuned.weight(name)
        wanted = torch.where(mask, ours + 0.5 * (theirs - ours), theirs)
        torch.testing.assert_close(restored.weight(name), wanted)
    assert "half" in kind_names() and "half" in grid_kinds()
    assert len(Grid(compensation=("half",)).configs(settings)) == 6


def test_ours_come_first(installed):
    assert repair_kind("sum") is KINDS["sum"]
    assert kind_names().count("sum") == 1


def test_what_is_no_repair_is_refused(installed, pair):
    with pytest.raises(ConfigError, match=r"'whole' that a package registered .* 'neurons'"):
        config(compensation="whole")
    with pytest.raises(ConfigError, match=r"'shapeless' returned a NoneType for model\.layers"):
        hcnr.restore(**pair, config=config(compensation="shapeless"))
    with pytest.raises(ConfigError, match=r"expected one of none, sum.*half"):
        config(compensation="hal")


def test_a_kind_is_what_the_kernels_return():
    kind = RepairKind("joint", "neurons", "", ("honesty",), apply=KINDS["joint"].apply)
    apply = kind.applied()
    assert apply is not None
    mask = torch.tensor([True, False, False])
    settings = {"axis": "output", "task_weight": 1.0, "damping": 0.01, "block_size": None}
    found = apply(kind, torch.ones(3, 2), mask, torch.eye(3), None, **settings)
    assert isinstance(found, Compensation) and not found.deviation[0].any()
