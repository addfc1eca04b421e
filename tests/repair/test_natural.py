"""Natural steps by themselves; `test_spectral_bases.py` compares them with dense systems."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from hcnr.curvature.gradient import MeanGradient
from hcnr.curvature.spectral_bases import SpectralBases
from hcnr.data.samples import load_samples
from hcnr.data.tokens import tokenize
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hcnr.repair.natural import natural_steps
from pairs import HONESTY, TASK, bits, config, tokenizer

SETTINGS = config(compensation="natural", cross_weight_ratio=1.0, steps=3, step_size=0.1)


@pytest.fixture
def job(pair):
    """Everything that a walk takes, with the tuned model that it walks in."""
    opened = Pair.open(pair["base"], pair["tuned"], SETTINGS, Stages())
    data = {
        name: tokenize(load_samples(records, limit=8), tokenizer())
        for name, records in (("honesty", HONESTY), ("task", TASK))
    }
    names = opened.matrices
    tuned = AutoModelForCausalLM.from_pretrained(pair["tuned"]).eval()
    kinds = ("natural",)
    with SpectralBases.measure(
        opened, names, data, SETTINGS, Stages(), kinds=kinds
    ) as spectral_bases:

        def walk(overlay, **settings):
            return natural_steps(
                overlay,
                lambda name: (opened.base.weight(name), opened.tuned.weight(name)),
                names,
                spectral_bases,
                SETTINGS.replace(**settings),
            )

        yield walk, tuned, spectral_bases


def norm(deviations):
    return math.sqrt(sum(float(one.double().square().sum()) for one in deviations.values()))


def test_steps_go_on_where_others_ended(job):
    """Three steps are one step and then two: nothing else is carried along."""
    walk, tuned, _ = job
    before = bits(tuned)
    with Overlay(tuned) as overlay:
        three = walk(overlay, steps=3)
        after = bits(tuned)
        overlay.undo()
        first = walk(overlay, steps=1)
    assert bits(tuned) == before != after
    assert three.steps[0] == first.steps[0]
    assert three.steps[1].honesty_loss == pytest.approx(first.honesty_loss, rel=1e-6)
    losses = [step.honesty_loss for step in three.steps]
    assert losses == sorted(losses, reverse=True) and three.honesty_loss < losses[-1]


def test_a_step_is_as_long_as_asked_for(job):
    walk, tuned, _ = job
    with Overlay(tuned) as overlay:
        short = walk(overlay, steps=1, step_size=1e-6).deviations
        overlay.undo()
        whole, long = norm(short), walk(overlay, steps=1, step_size=0.5)
    moved = {name: long.deviations[name] - short[name] for name in short}
    assert norm(moved) == pytest.approx(0.5 * whole, rel=1e-4)
    assert long.steps[0].length == pytest.approx(0.5 * whole, rel=1e-4)
    assert long.steps[0].share == 0.5


def test_without_a_gradient_the_walk_ends(job, monkeypatch):
    walk, tuned, spectral_bases = job

    def flat(model, matrices, data, **settings):
        weights = {name: torch.zeros_like(layer.weight) for name, layer in matrices.items()}
        return MeanGradient(1.5, weights)

    monkeypatch.setattr("hcnr.repair.natural.mean_gradient", flat)
    before = bits(tuned)
    with Overlay(tuned) as overlay:
        found = walk(overlay)
        assert bits(tuned) == before
    assert found.steps == [] and found.honesty_loss == 1.5
    assert spectral_bases.passes == 3
