import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.repair.changes import relative_perturbation
from hcnr.repair.selection import (
    candidates,
    count_of,
    priority,
    select_neurons,
    top,
)

CONFIG = RestoreConfig.from_preset("paper")


def vector(*values):
    return torch.tensor(values, dtype=torch.float32)


@given(st.floats(0, 1), st.integers(0, 300))
def test_counts_are_rounded_half_up(ratio, size):
    assert count_of(ratio, size) == int(ratio * size + 0.5)
    assert 0 <= count_of(ratio, size) <= size


def test_half_counts_go_up_not_to_even():
    assert [count_of(0.5, size) for size in (1, 3, 5)] == [1, 2, 3]


def test_priority_is_the_formula():
    honesty, task = vector(0.3, 1.0, 2.0, 0.5), vector(0.1, 1.0, 3.0, 0.25)
    wanted = [h * math.log(h / t) for h, t in zip(honesty.tolist(), task.tolist(), strict=True)]
    assert priority(honesty, task).tolist() == pytest.approx(wanted, rel=1e-12)
    assert torch.equal(priority(honesty, task, "honesty"), honesty.double())


def test_priority_at_zero_is_finite_and_zero_without_honesty():
    found = priority(vector(0, 0, 1), vector(0, 1, 0))
    assert found[:2].tolist() == [0, 0]
    assert found[2] == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))


def test_ties_go_to_the_lower_index():
    assert top(vector(1, 3, 3, 3, 2), 2).tolist() == [False, True, True, False, False]
    assert top(vector(0, 0, 0, 0), 2).tolist() == [True, True, False, False]
    assert not top(vector(1, 2), 0).any()


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), max_size=40), st.floats(0, 1))
def test_top_is_a_stable_ranking(values, ratio):
    count = count_of(ratio, len(values))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    mask = top(torch.tensor(values, dtype=torch.float64), count)
    assert mask.nonzero().flatten().tolist() == sorted(order[:count])


def test_normalisation_makes_the_logarithm_a_divergence():
    honesty, task = vector(1, 2, 3, 4), vector(40, 30, 20, 10)
    plain = candidates(honesty, task, CONFIG)
    scaled = candidates(honesty, task, CONFIG.replace(score_normalization="matrix"))
    # Unnormalised, every logarithm is negative and small honesty scores come first.
    assert plain.tolist() == [True, False, False, True]
    assert scaled.tolist() == [False, False, True, True]
    same = candidates(honesty, task * 7, CONFIG.replace(score_normalization="matrix"))
    assert torch.equal(same, scaled)


def test_without_the_task_only_honesty_ranks():
    config = CONFIG.replace(priority="honesty")
    assert candidates(vector(1, 4, 3, 2), vector(1, 9, 9, 1), config).tolist() == [
        False, True, True, False,
    ]  # fmt: skip


def test_random_candidates_depend_on_seed_and_matrix_alone():
    config = CONFIG.replace(priority="random", seed=3)
    scores = torch.rand(50), torch.rand(50)
    first = candidates(*scores, config, position=4)
    assert first.sum() == 25
    assert torch.equal(first, candidates(scores[1], scores[0], config, position=4))
    assert not torch.equal(first, candidates(*scores, config, position=5))
    assert not torch.equal(first, candidates(*scores, config.replace(seed=4), position=4))


def test_perturbation_of_nothing_is_zero_and_of_zero_weights_infinite():
    assert relative_perturbation(0.0, 0.0) == 0
    assert relative_perturbation(2.0, 0.0) == math.inf
    assert relative_perturbation(9.0, 4.0) == 1.5


def invented(names, neurons=4):
    scores = {name: torch.rand(neurons) + 0.1 for name in names}
    return Statistics(
        "output",
        {"honesty": scores, "task": {name: torch.rand(neurons) + 0.1 for name in names}},
        {},
    )


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 1.0])
def test_matrices_are_chosen_by_their_perturbation_in_the_models_order(ratio):
    names = ["c", "a", "e", "b", "d"]
    base = {name: torch.ones(4, 3) for name in names}
    # e moves most, then c; a and b tie and a comes first in the model; d does not move.
    moved = {"c": 0.3, "a": 0.2, "e": 0.5, "b": 0.2, "d": 0.0}
    tuned = {name: base[name] + moved[name] for name in names}
    config = CONFIG.replace(cross_weight_ratio=ratio)
    found = select_neurons(invented(names), base.__getitem__, tuned.__getitem__, config)
    # So d is not counted either: the ratios are of four.
    wanted = {0.0: [], 0.2: ["e"], 0.5: ["c", "e"], 1.0: ["c", "a", "e", "b"]}[ratio]
    assert found.selected == wanted
    assert found.untouched == ("d",)
    assert found.perturbation == pytest.approx(moved, rel=1e-6)
    assert all(mask.sum() == 2 for mask in found.masks.values())


def test_perturbation_looks_at_candidates_only():
    base, tuned = torch.ones(4, 3), torch.ones(4, 3)
    statistics = invented(["m"])
    mask = candidates(statistics.scores["honesty"]["m"], statistics.scores["task"]["m"], CONFIG)
    tuned[~mask] = 100
    found = select_neurons(statistics, lambda _: base, lambda _: tuned, CONFIG)
    assert found.perturbation == {"m": 0.0}


def halved(honesty):
    """Statistics whose two halves have these honesty scores, by matrix."""
    task = {name: torch.full((4,), 0.5) for name in honesty}
    halves = {name: torch.stack([vector(*half) for half in both]) for name, both in honesty.items()}
    return Statistics(
        "output",
        {"honesty": {name: both.mean(0) for name, both in halves.items()}, "task": task},
        {"honesty": halves, "task": {name: torch.full((2, 4), 0.5) for name in honesty}},
    )


def test_overlap_of_halves():
    statistics = halved(
        {
            "same": [(4, 3, 2, 1), (8, 6, 4, 2)],
            "half": [(4, 3, 2, 1), (4, 1, 2, 3)],
            "none": [(4, 3, 2, 1), (1, 2, 3, 4)],
        }
    )
    base = torch.ones(4, 3)
    moved = {"same": 0.5, "half": 0.4, "none": 0.1}

    def run(**settings):
        config = CONFIG.replace(cross_weight_ratio=0.67, **settings)
        return select_neurons(statistics, lambda _: base, lambda n: base + moved[n], config)

    found = run()
    assert found.overlap == {"same": 1.0, "half": 0.5, "none": 0.0}
    # Both halves restore `same` and `half`: 2 + 1 of 4 neurons are common.
    assert found.selected == ["same", "half"]
    assert found.selected_overlap == 0.75
    assert run(in_weight_ratio=0).overlap["none"] == 1.0
    random = run(priority="random")
    assert random.overlap == {}
    assert random.selected_overlap is None


def test_halves_that_choose_other_matrices_share_nothing_there():
    statistics = halved({"a": [(4, 3, 2, 1), (1, 2, 3, 4)], "b": [(4, 3, 2, 1), (4, 3, 2, 1)]})
    base = torch.ones(4, 3)
    # The first half's candidates of `a` moved most, the second half's did not move at all.
    tuned = {"a": base + vector(9, 9, 0, 0)[:, None], "b": base + 0.5}
    config = CONFIG.replace(cross_weight_ratio=0.5)
    found = select_neurons(statistics, lambda _: base, tuned.__getitem__, config)
    assert found.overlap == {"a": 0.0, "b": 1.0}
    assert found.selected_overlap == 0.0
    assert found.selected == ["a"]
    assert found.perturbation == pytest.approx({"a": 9.0, "b": 0.5})


def test_no_matrices_select_nothing():
    nothing = Statistics("output", {"honesty": {}, "task": {}}, {})
    found = select_neurons(nothing, {}.__getitem__, {}.__getitem__, CONFIG)
    assert found.selected == [] and found.perturbation == {}
