import itertools
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForCausalLM

import hcnr
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hcnr.repair.candidates import Candidates, Selections
from pairs import bits, config


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("priority", ["kl", "honesty", "random"])
def test_selections_are_those_of_select_and_nested(pair, statistics, axis, priority):
    checked = Pair.open(pair["base"], pair["tuned"], config(axis=axis), Stages())
    selections = Selections(checked, statistics[axis])
    for in_weight in (0.3, 0.7):
        before: set[str] = set()
        for cross_weight in (0.2, 0.4, 0.6, 1.0):
            settings = config(
                axis=axis, in_weight_ratio=in_weight, cross_weight_ratio=cross_weight,
                compensation="balanced", task_weight=3.0, priority=priority,
            )  # fmt: skip
            found = selections.of(settings)
            wanted = hcnr.select(statistics[axis], pair["base"], pair["tuned"], settings)
            assert found.selected == wanted.selected
            assert found.perturbation == wanted.perturbation
            for name, mask in wanted.masks.items():
                assert torch.equal(found.masks[name], mask)
            assert before < set(found.selected)
            before = set(found.selected)
    assert len(selections) == 2


def test_a_larger_share_computes_only_what_is_new(pair, statistics, monkeypatch):
    from hcnr.repair import candidates

    made = []
    original = candidates.final_weight
    monkeypatch.setattr(candidates, "final_weight", lambda n, *a: made.append(n) or original(n, *a))
    # Every look at the clock is a second later, so to compensate and to apply take one each.
    monkeypatch.setattr(
        candidates, "time", SimpleNamespace(perf_counter=itertools.count().__next__)
    )
    source = Pair.open(pair["base"], pair["tuned"], config(), Stages())
    selections = Selections(source, statistics["output"])
    model = LlamaForCausalLM.from_pretrained(pair["tuned"])
    before = bits(model)
    with Overlay(model) as overlay:
        work = Candidates(source, statistics["output"], overlay)
        for cross_weight in (0.2, 0.4, 0.6):
            settings = config(cross_weight_ratio=cross_weight)
            work.apply(settings, selections.of(settings))
        largest = selections.of(config(cross_weight_ratio=0.6)).selected
        assert sorted(made) == sorted(largest)
        dearest = 2 * len(largest)
        assert work.dearest == dearest
        # A smaller share cannot be reached by adding.
        made.clear()
        small = config(cross_weight_ratio=0.2)
        work.apply(small, selections.of(small))
        assert sorted(made) == sorted(selections.of(small).selected)
        assert min(work.seconds.values()) > 0
        # What came before was dearer.
        assert work.dearest == dearest < sum(work.seconds.values())
    assert bits(model) == before
