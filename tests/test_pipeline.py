"""The whole of `measure` and `restore` against oracles: is each thing taken where it should be?"""

import pytest
import torch
from transformers import AutoModelForCausalLM

import hcnr
import oracle
from hcnr.checkpoint import Checkpoint
from hcnr.data.samples import load_samples
from hcnr.data.tokens import tokenize
from hcnr.models.model import open_model
from hcnr_kernels.testing import reference
from pairs import HONESTY, TASK, config, tokenizer

CHATML = "{% for m in messages %}w1 {{ m.content }} w2 {% endfor %}"


def models(pair):
    return {role: AutoModelForCausalLM.from_pretrained(pair[role]) for role in ("base", "tuned")}


def data(records):
    return tokenize(load_samples(records, limit=8), tokenizer())


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("swapped", [False, True])
def test_each_number_is_taken_at_the_right_model_and_data(pair, axis, swapped):
    """Scores at tuned and honesty curvature at base, or the other way round when asked."""
    places = {"fisher_at": "base", "hessian_at": "tuned"} if swapped else {}
    found = hcnr.measure(
        **pair,
        config=config(axis=axis, compensation="balanced", all_hessians=True, **places),
    )
    loaded, names = models(pair), found.matrices
    scored, curved = ("base", "tuned") if swapped else ("tuned", "base")
    for kind, records in (("honesty", HONESTY), ("task", TASK)):
        exact = oracle.fisher(loaded[scored], names, data(records), axis)
        for name in names:
            assert oracle.relative(found.scores[kind][name], exact[name]) <= 1e-5
    for kind, records, role in (("honesty", HONESTY, curved), ("task", TASK, "tuned")):
        exact = oracle.second_moment(loaded[role], names, data(records), axis)
        for name in names:
            assert oracle.relative(found.hessians[kind][name], exact[name]) <= 1e-5


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("kind", ["none", "sum", "joint", "balanced"])
def test_written_weights_are_the_formulas(pair, statistics, tmp_path, kind, axis, block_size):
    settings = config(
        axis=axis, compensation=kind, block_size=block_size, task_weight=0.7, damping=0.03
    )
    out = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "o", config=settings,
        statistics=statistics[axis],
    )  # fmt: skip
    chosen = hcnr.select(statistics[axis], pair["base"], pair["tuned"], settings)
    base, tuned, written = (
        Checkpoint.open(directory) for directory in (pair["base"], pair["tuned"], out)
    )
    for name in chosen.selected:
        honest, task = (written_at.load(f"{name}.weight").double() for written_at in (base, tuned))
        deviation = reference.compensation(
            task - honest,
            chosen.masks[name],
            statistics[axis].hessians["honesty"][name].double(),
            axis=axis,
            kind=kind,
            task_hessian=statistics[axis].hessians["task"][name].double(),
            task_weight=0.7,
            damping=0.03,
            block_size=block_size,
        )
        result = written.load(f"{name}.weight").double()
        assert oracle.relative(result - honest, deviation) <= 1e-4 or not deviation.any()


def test_data_settings_reach_the_data(pair):
    def facts(**settings):
        shown = hcnr.measure(**pair, config=config(compensation="none", **settings))
        return shown.data["honesty"]

    plain, shuffled = facts(samples=4), facts(samples=4, shuffle_seed=1)
    wanted = load_samples(pair["honesty"], limit=4, shuffle_seed=1).sha256
    assert plain["sha256"] != shuffled["sha256"] == wanted
    assert facts(max_length=5)["prompts_truncated"] == 8
    templated = tokenizer()
    templated.chat_template = CHATML
    for choice, used in (("auto", True), ("never", False)):
        found = hcnr.measure(
            **pair, config=config(compensation="none", chat_template=choice), tokenizer=templated
        )
        assert found.data["honesty"]["chat_template"] is used


def test_measuring_settings_reach_the_model(pair, monkeypatch):
    seen = []

    def watch(path, **settings):
        model = open_model(path, **settings)
        seen.append((model.dtype, model.config._attn_implementation))
        return model

    monkeypatch.setattr("hcnr.models.directory.open_model", watch)
    hcnr.measure(**pair, config=config(dtype="bfloat16", attention="eager"))
    assert seen == [(torch.bfloat16, "eager")] * 2
