"""Models in memory as inputs and results, and how many of them a restoration holds."""

import copy
import weakref

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import hcnr
from families import make, perturbed
from hcnr.errors import HcnrError
from hcnr.models.model import open_model
from pairs import HONESTY, TASK, config, tensors, tokenizer


def watch_models(monkeypatch):
    """The models that are opened from directories, and how many were alive at each opening."""
    opened: list[weakref.ref] = []
    alive: list[int] = []

    def watch(path, **settings):
        alive.append(sum(reference() is not None for reference in opened))
        model = open_model(path, **settings)
        opened.append(weakref.ref(model))
        return model

    monkeypatch.setattr("hcnr.models.directory.open_model", watch)
    return opened, alive


def test_models_in_memory_give_the_model_of_the_directories(pair, tmp_path):
    base, tuned = (AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned"))
    before = [copy.deepcopy(m.state_dict()) for m in (base, tuned)]
    tuned.train()
    restored = hcnr.restore(base, tuned, HONESTY, TASK, config=config())
    assert tuned.training
    assert not restored.training
    assert restored is not tuned
    for model, state in zip((base, tuned), before, strict=True):
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name])
        assert all(p.requires_grad for p in model.parameters())
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config())
    written = tensors(out)
    for name, value in restored.state_dict().items():
        assert torch.equal(value, written[name]), name
    assert restored.hcnr_report["summary"]["selected_matrices"] == 6


def test_models_can_be_written_to_a_directory(pair, tmp_path):
    base, tuned = (AutoModelForCausalLM.from_pretrained(pair[r]) for r in ("base", "tuned"))
    out = hcnr.restore(base, tuned, HONESTY, TASK, out=tmp_path / "m", config=config())
    same = hcnr.restore(**pair, out=tmp_path / "d", config=config())
    one, other = tensors(out), tensors(same)
    assert {n: v.tolist() for n, v in one.items()} == {n: v.tolist() for n, v in other.items()}
    assert AutoTokenizer.from_pretrained(out)("w3").input_ids == [6]
    assert {"README.md", "hcnr_config.yaml", "hcnr_report.json"} <= {p.name for p in out.iterdir()}


def test_directories_without_out_give_a_model(pair):
    restored = hcnr.restore(**pair, config=config())
    assert "hcnr" in restored.hcnr_report["versions"]


def test_a_model_without_a_known_tokenizer_asks_for_one():
    base = make("llama")
    tuned = perturbed(base)
    with pytest.raises(HcnrError, match=r"pass tokenizer="):
        hcnr.restore(base, tuned, HONESTY, TASK, config=config())
    restored = hcnr.restore(base, tuned, HONESTY, TASK, config=config(), tokenizer=tokenizer())
    assert restored.hcnr_report["data"]["honesty"]["samples"] == 8


def test_nothing_selected_opens_no_second_model(pair, monkeypatch):
    opened = []

    def watch(path, **settings):
        opened.append(path.name)
        return open_model(path, **settings)

    monkeypatch.setattr("hcnr.models.directory.open_model", watch)
    hcnr.measure(**pair, config=config(cross_weight_ratio=0))
    assert opened == ["tuned"]


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("recompute", [False, True])
def test_one_model_is_in_memory_at_a_time(pair, tmp_path, monkeypatch, axis, recompute):
    opened, alive = watch_models(monkeypatch)
    settings = config(compensation="balanced", axis=axis, gradient_checkpointing=recompute)
    hcnr.restore(**pair, out=tmp_path / "out", config=settings)
    # Both for their losses, tuned last: it serves the scores and the task's curvature too; base for
    # the honesty curvature; what was written.
    assert alive == [0, 0, 0, 0]
    assert opened[-1]() is None


@pytest.mark.parametrize("weight", [1.0, "auto"])
def test_one_model_is_in_memory_at_a_time_in_a_walk(learned, tmp_path, monkeypatch, weight):
    """Steps are taken in a model of their own: the one that was measured is let go before."""
    _, alive = watch_models(monkeypatch)
    settings = config(
        compensation="spectral+natural", task_weight=weight, max_task_drop_percent=90, steps=1,
        samples=16,
    )  # fmt: skip
    hcnr.restore(**learned, out=tmp_path / "out", config=settings)
    assert len(alive) >= 4 and not any(alive)
