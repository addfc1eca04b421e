import dataclasses

import pytest

from experiments.trial.choosing import RIVALS
from experiments.trial.making import Masked, Preferred, Restored, Samples, brief, key_of
from experiments.trial.real_ways import REAL_WAYS, ways_of
from experiments.trial.ways import INTERPOLATION, WAYS, find_ways

BY_NAME = {way.name: way for way in REAL_WAYS}


def test_the_pretrained_worlds_have_their_own_ways():
    for world in ("smollm2", "gemma3"):
        assert ways_of(world) is REAL_WAYS
    for world in ("synthetic", "text", "text-mild", "no such world"):
        assert ways_of(world) is WAYS


def test_every_promised_way_takes_part_and_the_rivals_are_found_by_name():
    wanted = {
        *("none", "sum", "joint", "balanced", "spectral", "natural", INTERPOLATION),
        *("rait", "dpo", "orpo", "prompt", "rehearsal"),
        *(name for names in RIVALS.values() for name in names),
        *(f"{kind}, {neurons}" for kind in ("none", "sum", "joint", "balanced", "spectral")
          for neurons in ("random neurons", "without the task")),
    }  # fmt: skip
    assert wanted <= BY_NAME.keys() and len(BY_NAME) == len(REAL_WAYS)
    assert REAL_WAYS[0].name == INTERPOLATION
    found = find_ways(["dpo", "spectral-without-the-task", "rait"], REAL_WAYS)
    assert [way.name for way in found] == ["rait", "dpo", "spectral, without the task"]


@pytest.mark.parametrize("way", REAL_WAYS, ids=lambda way: way.name)
def test_a_way_has_a_handful_of_different_candidates(way):
    keys = {key_of(one, way.samples) for one in way.grid}
    assert len(keys) == len(way.grid) and 2 <= len(keys) <= 7
    assert way.samples == Samples(128, "mixed")
    assert len({brief(one.as_dict()) for one in way.grid}) == len(way.grid)


@pytest.mark.parametrize("priority", ["random", "honesty"])
def test_controls_differ_in_the_neurons_alone(priority):
    name = {"random": "random neurons", "honesty": "without the task"}[priority]
    for kind in ("none", "sum", "joint", "balanced"):
        control, own = BY_NAME[f"{kind}, {name}"].grid, BY_NAME[kind].grid
        assert [dataclasses.replace(one, priority="kl") for one in control] == list(own)
        for one in control:
            assert isinstance(one, Restored)
            assert (one.priority, one.config(8, 0).priority) == (priority, priority)
    masked, own = BY_NAME[f"spectral, {name}"].grid, BY_NAME["spectral, priority neurons"].grid
    assert [dataclasses.replace(one, neurons="kl") for one in masked] == list(own)
    for one in masked:
        assert isinstance(one, Masked) and one.selecting.priority == priority


def test_no_candidate_stands_under_two_names():
    keys = [key_of(one, way.samples) for way in REAL_WAYS for one in way.grid]
    assert len(keys) == len(set(keys))


def test_dpo_and_orpo_try_two_rates_each():
    for name in ("dpo", "orpo"):
        grid = BY_NAME[name].grid
        assert all(isinstance(one, Preferred) and one.by == name for one in grid)
        assert len({one.rate for one in grid if isinstance(one, Preferred)}) == len(grid) == 2
