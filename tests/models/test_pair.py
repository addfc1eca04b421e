"""Equality of two models, exactly; matrices that fine-tuning never touched."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import hcnr
from families import make
from hcnr.errors import CheckpointError
from pairs import config, tokenizer


@pytest.fixture
def edited(pair, tmp_path):
    """Write a copy of base whose parameters a function has changed; return the pair with it."""

    def edit(change):
        model = AutoModelForCausalLM.from_pretrained(pair["base"])
        with torch.no_grad():
            change(model.model)
        model.save_pretrained(tmp_path / "edited")
        tokenizer().save_pretrained(tmp_path / "edited")
        return {**pair, "tuned": tmp_path / "edited"}

    return edit


def run(given, out, **settings):
    found = hcnr.restore(**given, out=out, config=config(**settings))
    return json.loads((found / "hcnr_report.json").read_text())


@pytest.mark.parametrize("row", [17, 39])
def test_a_single_row_is_a_difference(edited, tmp_path, row):
    name = "model.layers.1.mlp.up_proj"
    given = edited(lambda body: body.layers[1].mlp.up_proj.weight[row].add_(0.5))
    report = run(
        given,
        tmp_path / "out",
        compensation="none",
        in_weight_ratio=1.0,
        cross_weight_ratio=1.0,
    )
    assert [record["name"] for record in report["matrices"]] == [name]
    restored, base = (
        AutoModelForCausalLM.from_pretrained(path).get_parameter(f"{name}.weight")
        for path in (tmp_path / "out", given["base"])
    )
    assert torch.equal(restored, base)


def test_only_a_norm_differs(edited, tmp_path):
    given = edited(lambda body: (body.norm.weight.add_(0.5),
                                 body.layers[0].input_layernorm.weight.add_(1)))  # fmt: skip
    with pytest.raises(
        CheckpointError, match=r"no target differs.*these do: .*model\.norm\.weight"
    ):
        run(given, tmp_path / "out")


def test_only_embeddings_differ_and_their_fingerprints(edited, tmp_path):
    given = edited(lambda body: body.embed_tokens.weight.mul_(2))
    with pytest.raises(CheckpointError, match=r"no target differs.*these do: model\.embed_tokens"):
        run(given, tmp_path / "out")


def test_models_in_memory():
    base = make("llama")
    tuned = copy.deepcopy(base)
    with pytest.raises(CheckpointError, match="have the same weights: there is nothing to repair"):
        hcnr.restore(base, tuned, [], [], config=config(), tokenizer=tokenizer())
    tuned.model.norm.weight.data += 1
    with pytest.raises(CheckpointError, match=r"these do: model\.norm\.weight"):
        hcnr.restore(base, tuned, [], [], config=config(), tokenizer=tokenizer())


def touch(body):
    for layer in body.layers:
        for matrix in (layer.self_attn.q_proj, layer.self_attn.v_proj):
            matrix.weight.add_(0.05 * torch.randn_like(matrix.weight))


KINDS = [{"compensation": "sum"}, {"compensation": "spectral"}, {"priority": "random"}]


@pytest.mark.parametrize("settings", KINDS)
def test_untouched_matrices_are_neither_counted_nor_selected(edited, tmp_path, settings):
    report = run(edited(touch), tmp_path / "out", **{"cross_weight_ratio": 0.5, **settings})
    names = [record["name"].rsplit(".", 1)[-1] for record in report["matrices"]]
    assert len(names) == 2
    assert set(names) <= {"q_proj", "v_proj"}
    assert report["summary"]["target_matrices"] == 4
    assert report["summary"]["target_parameters"] == 2 * (24 * 24 + 12 * 24)
    assert any("10 of 14 target matrices are in tuned as they are in base" in message
               for message in report["warnings"])  # fmt: skip


def test_rounding_to_another_dtype_touches_nothing(pair, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(pair["base"]).bfloat16()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    report = run({**pair, "tuned": tmp_path / "tuned"}, tmp_path / "out", cross_weight_ratio=1.0)
    assert [record["name"] for record in report["matrices"]] == ["model.layers.0.mlp.up_proj"]


def test_a_sweep_does_not_select_them_either(edited, tmp_path):
    given = edited(touch)
    from hcnr.models.pair import Pair
    from hcnr.progress import Stages
    from hcnr.repair.candidates import Selections

    settings = config(cross_weight_ratio=1.0, all_hessians=True)
    statistics = hcnr.measure(**given, config=settings)
    opened = Pair.open(given["base"], given["tuned"], settings, Stages())
    selection = Selections(opened, statistics).of(settings)
    assert {name.rsplit(".", 1)[-1] for name in selection.selected} == {"q_proj", "v_proj"}
