"""Curvature along the neuron axis: never more at once than is allowed, and the same bytes."""

import json
import os
import re
import weakref
from typing import Any

import pytest

import hcnr
from hcnr.config import RestoreConfig
from hcnr.curvature.groups import GIB
from hcnr.curvature.statistics import Statistics
from hcnr.errors import ConfigError
from hcnr.pipeline import neurons
from hcnr.plan import plan_run
from hcnr.record.writing import read_report
from pairs import bits, hashes

BLOCK, MATRIX = 0.00006, 0.00004
"""GiB that hold the curvature of a block of the small pair, and of each of its matrices."""
LOOSE = {"max_task_drop_percent": 90}
CASES: dict[str, tuple[float, dict[str, Any]]] = {
    "sum": (BLOCK, {"compensation": "sum"}),
    "sum, matrix by matrix": (MATRIX, {"compensation": "sum"}),
    "joint": (BLOCK, {"compensation": "joint", "axis": "input"}),
    "joint, matrix by matrix": (MATRIX, {"compensation": "joint", "axis": "input"}),
    "balanced": (0.0001, {"compensation": "balanced", "task_weight": 2.0}),
    "searched": (0.0001, {"compensation": "balanced", "task_weight": "auto", **LOOSE}),
    "some": (MATRIX, {"compensation": "sum", "cross_weight_ratio": 0.5}),
}


def settings(**own: Any) -> RestoreConfig:
    return RestoreConfig(**{"samples": 16, "token_budget": 64, "device": "cpu", **own})


@pytest.fixture
def spill(tmp_path, monkeypatch):
    place = tmp_path / "spill"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def held(monkeypatch):
    """Most bytes of curvature alive at once, as `held[1]`; those alive now, as `held[0]`."""
    count, known = [0, 0], set()
    real = neurons.curvature

    def counted(*arguments, **options):
        found = real(*arguments, **options)
        for gram in found.values():
            storage = gram.untyped_storage()
            if storage.data_ptr() not in known:
                known.add(storage.data_ptr())
                count[0] += storage.nbytes()
                weakref.finalize(storage, gone, storage.data_ptr(), storage.nbytes())
        count[1] = max(count[1], count[0])
        return found

    def gone(place, nbytes):
        known.discard(place)
        count[0] -= nbytes

    monkeypatch.setattr(neurons, "curvature", counted)
    return count


@pytest.mark.parametrize("name", CASES)
def test_groups_give_the_same_bytes_within_the_budget(learned, tmp_path, spill, held, name):
    budget, own = CASES[name]
    config = settings(**own)
    whole = hcnr.restore(**learned, out=tmp_path / "whole", config=config)
    assert held[1] > 0 and held[0] == 0
    most, held[1] = held[1], 0
    out = hcnr.restore(**learned, out=tmp_path / "out", config=config.replace(memory_budget=budget))
    assert hashes(out) == hashes(whole)
    assert 0 < held[1] < most and held[1] <= budget * GIB
    told, expected = (read_report(place)["warnings"] for place in (out, whole))
    (message,) = [one for one in told if one not in expected]
    groups = int(re.findall(r"for (\d+) groups of matrices", message)[0])
    assert groups > (2 if budget == MATRIX else 1)
    if config.cross_weight_ratio == 1:
        planned = plan_run(learned["base"], learned["tuned"], config.replace(memory_budget=budget))
        assert len(planned.groups) == groups
    records = [json.dumps(read_report(place)["matrices"]) for place in (out, whole)]
    assert records[0] == records[1]
    assert os.listdir(spill) == []


def test_a_model_in_memory_is_the_same_too(learned, spill):
    config = settings(compensation="joint")
    pair = {key: learned[key] for key in ("base", "tuned", "honesty", "task")}
    whole = hcnr.restore(**pair, config=config)
    found = hcnr.restore(**pair, config=config.replace(memory_budget=MATRIX))
    assert bits(found) == bits(whole)


@pytest.mark.parametrize("axis", ["output", "input"])
def test_statistics_are_the_same_file_and_map_what_does_not_fit(
    learned, tmp_path, spill, held, axis
):
    pair = {key: learned[key] for key in ("base", "tuned", "honesty", "task")}
    config = settings(compensation="balanced", all_hessians=True, axis=axis, cross_weight_ratio=0.4)
    hcnr.measure(**pair, config=config).save(tmp_path / "whole.safetensors")
    held[1] = 0
    found = hcnr.measure(**pair, config=config.replace(memory_budget=0.00008))
    # In files that have no name any more.
    assert held[0] == 0 and 0 < held[1] <= 0.00008 * GIB
    assert os.listdir(spill) == []
    q, k = (found.hessians["honesty"][f"model.layers.0.self_attn.{n}_proj"] for n in "qk")
    assert (q is k) == (axis == "input")
    found.save(tmp_path / "found.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "found.safetensors").read_bytes() == whole
    # A restoration from it reads the same curvature from another place of a file.
    restoring = config.replace(all_hessians=False, task_weight=2.0)
    places = [
        hcnr.restore(
            pair["base"], pair["tuned"], out=tmp_path / name, config=restoring, statistics=one
        )
        for name, one in (("a", found), ("b", Statistics.load(tmp_path / "whole.safetensors")))
    ]
    assert hashes(places[0]) == hashes(places[1])


def test_a_matrix_that_exceeds_the_budget_is_refused_before_the_passes(
    learned, tmp_path, monkeypatch
):
    monkeypatch.setattr("hcnr.curvature.passes.Passes.run", None)
    little = settings(compensation="sum", memory_budget=1e-5)
    with pytest.raises(ConfigError, match=r"layers.0.self_attn.q_proj needs .* raise --memory"):
        hcnr.restore(**learned, out=tmp_path / "no", config=little)
    pair = {key: learned[key] for key in ("base", "tuned", "honesty", "task")}
    with pytest.raises(ConfigError, match="memory_budget allows"):
        hcnr.measure(**pair, config=little)
    with pytest.raises(ConfigError, match="memory_budget allows"):
        hcnr.measure(**pair, config=little.replace(all_hessians=True, cross_weight_ratio=0.1))
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_without_curvature_the_budget_does_not_matter(learned, tmp_path):
    none = settings(compensation="none", memory_budget=1e-6)
    assert hcnr.restore(**learned, out=tmp_path / "out", config=none).is_dir()
