import dataclasses

import pytest

from experiments.trial.candidate_specs import (
    Masked,
    Preferred,
    Restored,
    Samples,
    brief,
    candidate_key,
)
from experiments.trial.methods import INTERPOLATION, METHODS, find_methods
from experiments.trial.real_methods import REAL_METHODS, methods_of
from experiments.trial.selection import BASELINES

BY_NAME = {method.name: method for method in REAL_METHODS}


def test_the_pretrained_worlds_have_their_own_methods():
    for world in ("smollm2", "gemma3"):
        assert methods_of(world) is REAL_METHODS
    for world in ("synthetic", "text", "text-mild", "no such world"):
        assert methods_of(world) is METHODS


def test_every_promised_method_takes_part_and_the_baselines_are_found_by_name():
    wanted = {
        *("none", "sum", "joint", "balanced", "spectral", "natural", INTERPOLATION),
        *("rait", "dpo", "orpo", "prompt", "rehearsal"),
        *(name for names in BASELINES.values() for name in names),
        *(f"{kind}, {neurons}" for kind in ("none", "sum", "joint", "balanced", "spectral")
          for neurons in ("random neurons", "without the task")),
    }  # fmt: skip
    assert wanted <= BY_NAME.keys() and len(BY_NAME) == len(REAL_METHODS)
    assert REAL_METHODS[0].name == INTERPOLATION
    found = find_methods(["dpo", "spectral-without-the-task", "rait"], REAL_METHODS)
    assert [method.name for method in found] == ["rait", "dpo", "spectral, without the task"]


@pytest.mark.parametrize("method", REAL_METHODS, ids=lambda method: method.name)
def test_a_method_has_a_handful_of_different_candidates(method):
    keys = {candidate_key(one, method.samples) for one in method.grid}
    assert len(keys) == len(method.grid) and 2 <= len(keys) <= 7
    assert method.samples == Samples(128, "mixed")
    assert len({brief(one.as_dict()) for one in method.grid}) == len(method.grid)


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
    keys = [candidate_key(one, method.samples) for method in REAL_METHODS for one in method.grid]
    assert len(keys) == len(set(keys))


def test_dpo_and_orpo_try_two_rates_each():
    for name in ("dpo", "orpo"):
        grid = BY_NAME[name].grid
        assert all(isinstance(one, Preferred) and one.by == name for one in grid)
        assert len({one.rate for one in grid if isinstance(one, Preferred)}) == len(grid) == 2
