import pytest
import torch

from hcnr.curvature.groups import (
    GIB,
    block_of,
    budget_of,
    curvature_bytes,
    free_memory,
    one_axis_bytes,
    plan_groups,
    plan_one_axis,
)
from hcnr.errors import ConfigError
from hcnr.kinds import Axis

SHAPES = {
    f"model.layers.{block}.{name}": shape
    for block in range(3)
    for name, shape in (("self_attn.q_proj", (8, 8)), ("mlp.down_proj", (8, 20)))
}


@pytest.mark.parametrize(
    ("matrix", "block"),
    [
        ("model.layers.11.mlp.down_proj", "model.layers.11"),
        ("model.layers.3.experts.7.w1", "model.layers.3"),
        ("transformer.h.0.attn.c_attn", "transformer.h.0"),
        ("lm_head", "lm_head"),
        ("model.layer2.dense", "model.layer2.dense"),
    ],
)
def test_the_block_of_a_matrix(matrix, block):
    assert block_of(matrix) == block


def test_bytes_count_moments_workspace_and_coordinates():
    assert curvature_bytes([(2, 3)], 2) == 4 * (2 * (4 + 9) + 7 * 9 + 2 * 6)
    # Two kinds of bases, two squares each, take more than three passes.
    assert curvature_bytes([(2, 3), (5, 3)], 3) == 4 * (4 * (4 + 9 + 25 + 9) + 7 * 25 + 4 * 21)
    assert curvature_bytes([], 2) == 0
    assert curvature_bytes([(8, 3)], 2, 4) == 4 * (2 * (8 * 4 + 9) + 7 * 8 * 4 + 2 * 24)


def test_blocks_stay_whole_and_fill_the_budget():
    one, two = (curvature_bytes(list(SHAPES.values())[:n], 2) for n in (2, 4))
    names = list(SHAPES)
    assert plan_groups(SHAPES, 2, None) == [names]
    assert plan_groups(SHAPES, 2, 10**9) == [names]
    assert plan_groups(SHAPES, 2, two) == [names[:4], names[4:]]
    assert plan_groups(SHAPES, 2, two - 1) == [names[:2], names[2:4], names[4:]]
    assert plan_groups(SHAPES, 2, one) == [names[:2], names[2:4], names[4:]]
    assert plan_groups({}, 2, one) == []
    with pytest.raises(ConfigError, match=r"model.layers.0 needs .* raise --memory-budget"):
        plan_groups(SHAPES, 2, one - 1)


def test_the_budget_is_what_was_asked_for_or_half_of_what_is_free(monkeypatch):
    assert budget_of(0.5, "cuda:7", None) == GIB // 2
    found = free_memory(torch.device("cpu"))
    assert found is None or found > 0
    monkeypatch.setattr("hcnr.curvature.groups.free_memory", lambda device: 100)
    assert budget_of(None, "cpu", None) == 50
    assert budget_of(None, "cpu", 40) == 30
    assert budget_of(None, "cpu", 140) == 0
    monkeypatch.setattr("hcnr.curvature.groups.free_memory", lambda device: None)
    assert budget_of(None, "cpu", 40) is None


def test_cached_files_count_as_free(monkeypatch, tmp_path):
    table = tmp_path / "meminfo"
    table.write_text("MemFree: 1 kB\nMemAvailable:   7 kB\n")
    own = open
    monkeypatch.setattr("builtins.open", lambda name, **kwargs: own(table, **kwargs))
    assert free_memory(torch.device("cpu")) == 7 * 1024
    table.write_text("nothing\n")
    assert free_memory(torch.device("cpu")) is None


def test_along_one_axis_blocks_that_do_not_fit_are_taken_apart():
    names, shapes = list(SHAPES), list(SHAPES.values())

    def needed(sets, *places, axis: Axis = "output"):
        return one_axis_bytes([shapes[n] for n in places], axis, sets)

    # Squares of each matrix, two more of the widest, five of the largest itself.
    assert needed(1, 0) == 4 * (8 * 8 + 2 * 8 * 8 + 5 * 8 * 8)
    assert needed(2, 0, 1) == 4 * (2 * 2 * 8 * 8 + 2 * 8 * 8 + 5 * 8 * 20)
    assert needed(1, 0, 1, axis="input") == 4 * (8 * 8 + 20 * 20 + 2 * 20 * 20 + 5 * 8 * 20)
    assert one_axis_bytes([], "output", 1) == 0

    def groups(budget, **settings):
        return plan_one_axis(SHAPES, "input", 2, budget, **settings)

    one, two = needed(2, 0, 1, axis="input"), needed(2, 0, 1, 2, 3, axis="input")
    assert groups(None) == groups(10**9) == [names]
    assert groups(two) == [names[:4], names[4:]]
    assert groups(two - 1) == groups(one) == [names[:2], names[2:4], names[4:]]
    assert groups(one - 1) == [[name] for name in names]
    alone = needed(2, 1, axis="input")
    assert groups(alone) == [[name] for name in names]
    with pytest.raises(ConfigError, match=r"model.layers.0.mlp.down_proj needs .* raise --memory"):
        groups(alone - 1)
    assert groups(1, refuses=False) == [[name] for name in names]
    assert plan_one_axis({}, "output", 1, 1) == []
