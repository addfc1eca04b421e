"""Two-sided repairs end to end, against dense float64 solutions of the whole problem."""

import math
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

import hcnr
import oracle
from hcnr.config import RestoreConfig
from hcnr.curvature.groups import GIB
from hcnr.curvature.spectral_bases import SpectralBases
from hcnr.data.samples import load_samples
from hcnr.data.tokens import tokenize
from hcnr.errors import ConfigError, DataError, StatisticsError
from hcnr.models.model import open_model
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.progress import Stages
from hcnr.repair.candidates import Candidates
from hcnr_kernels import BlockDiagonal
from pairs import HONESTY, TASK, bits, config, hashes, tokenizer, write_jsonl
from wholes import KINDS, SMALL, WHOLE, data, deltas, largest_block, moments, report, written


@pytest.mark.parametrize(
    ("hessian_at", "block_size"), [("base", None), ("tuned", None), ("base", 5)]
)
def test_spectral_writes_the_solution_of_the_dense_system(
    pair, loaded, tmp_path, hessian_at, block_size
):
    settings = config(
        compensation="spectral",
        task_weight=0.7,
        hessian_at=hessian_at,
        block_size=block_size,
        **SMALL,
    )
    out = hcnr.restore(**pair, out=tmp_path / "o", config=settings)
    names = [entry["name"] for entry in report(out)["matrices"]]
    assert len(names) == 3
    base, delta = deltas(loaded, names)
    near = moments(loaded[hessian_at], names, HONESTY)
    far = moments(loaded["tuned"], names, TASK)
    found = written(out, names)
    if block_size is not None:
        for kept in (near, far):
            for name, pair_of in kept.items():
                cut = [BlockDiagonal.cut(one, block_size).dense() for one in pair_of]
                kept[name] = cut[0], cut[1]
        assert report(out)["matrices"][0]["two_sided"]["routes"] == ["blocks", "blocks"]
    for name in names:
        wanted = oracle.dense_spectral(delta[name], near[name], far[name], 0.7, 0.05)
        assert oracle.relative(found[name] - base[name].detach(), wanted) <= 1e-4


@pytest.mark.parametrize("kind", ["natural", "spectral+natural"])
def test_natural_steps_are_those_of_the_dense_system(pair, loaded, tmp_path, kind):
    """Gradient measured anew before each step, all matrices scaled together, basis kept."""
    settings = config(compensation=kind, task_weight=2.0, steps=2, step_size=0.2, **SMALL)
    out = hcnr.restore(**pair, out=tmp_path / "o", config=settings)
    names = [entry["name"] for entry in report(out)["matrices"]]
    base, delta = deltas(loaded, names)
    near = moments(loaded["tuned"], names, HONESTY)
    far = moments(loaded["tuned"], names, TASK)
    deviation = dict(delta)
    if kind != "natural":
        at_base = moments(loaded["base"], names, HONESTY)
        deviation = {
            name: oracle.dense_spectral(delta[name], at_base[name], far[name], 2.0, 0.05)
            for name in names
        }
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"]).double()
    whole = math.sqrt(sum(float(d.square().sum()) for d in delta.values()))
    losses = []

    def put():
        with torch.no_grad():
            for name in names:
                model.get_parameter(f"{name}.weight").copy_(base[name] + deviation[name])

    for _ in range(2):
        put()
        loss, gradients = oracle.mean_gradient(model, names, data(HONESTY))
        losses.append(loss)
        steps = {
            name: oracle.natural_step(gradients[name], near[name], far[name], 2.0, 0.05)
            for name in names
        }
        length = math.sqrt(sum(float(step.square().sum()) for step in steps.values()))
        for name in names:
            deviation[name] = deviation[name] + 0.2 * whole / length * steps[name]
    put()
    final, _ = oracle.mean_gradient(model, names, data(HONESTY))
    for name, weight in written(out, names).items():
        assert oracle.relative(weight - base[name].detach(), deviation[name]) <= 1e-3
    facts = report(out)["two_sided"]
    assert [step["honesty_loss"] for step in facts["steps"]] == pytest.approx(losses, rel=1e-4)
    assert facts["honesty_loss"] == pytest.approx(final, rel=1e-4)
    assert all(step["length"] == pytest.approx(0.2 * whole, rel=1e-4) for step in facts["steps"])
    assert final < losses[1] < losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_groups_give_the_same_weights_and_leave_no_file(pair, tmp_path, monkeypatch, kind):
    settings = config(compensation=kind, steps=2, **WHOLE)
    whole = hcnr.restore(**pair, out=tmp_path / "one", config=settings)
    facts = report(whole)["two_sided"]
    assert facts["groups"] == 1
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spill))
    budget = 1.01 * largest_block(pair, 3 if "+" in kind else 2) / GIB
    opened = []
    load = open_model
    monkeypatch.setattr(
        "hcnr.models.directory.open_model",
        lambda path, **own: opened.append(path) or load(path, **own),
    )
    out = hcnr.restore(**pair, out=tmp_path / "two", config=settings.replace(memory_budget=budget))
    assert hashes(out) == hashes(whole)
    # Both ends' losses, of which the last serves the first group; for the groups, there and back;
    # for the walk; for the result's losses.
    assert len(opened) - 3 == {"spectral": 2, "natural": 1, "spectral+natural": 3}[kind]
    grouped = report(out)["two_sided"]
    assert grouped["groups"] == 2
    places = 3 if "+" in kind else 2
    assert facts["passes"] == places + (2 if "natural" in kind else 0)
    assert grouped["passes"] == 2 * facts["passes"]
    assert os.listdir(spill) == []
    with pytest.raises(ConfigError, match="raise --memory-budget"):
        hcnr.restore(**pair, out=tmp_path / "no", config=settings.replace(memory_budget=1e-6))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_only_selected_matrices_change_and_nothing_in_memory(pair, loaded, kind):
    """Models given in memory are as they were, bit for bit; matrices left out stay tuned."""
    settings = config(compensation=kind, cross_weight_ratio=0.4, task_weight=0.5, steps=1)
    before = {role: bits(model) for role, model in loaded.items()}
    restored = hcnr.restore(
        loaded["base"], loaded["tuned"], HONESTY, TASK, config=settings, tokenizer=tokenizer()
    )
    assert {role: bits(model) for role, model in loaded.items()} == before
    after = bits(restored)
    changed = {name for name in after if after[name] != before["tuned"][name]}
    summary = restored.hcnr_report["summary"]
    assert changed == {f"{entry['name']}.weight" for entry in restored.hcnr_report["matrices"]}
    assert summary["selected_matrices"] == len(changed) < summary["target_matrices"]
    for entry in restored.hcnr_report["matrices"]:
        assert entry["restored"] == entry["neurons"]


def test_which_matrices_does_not_depend_on_ratios_of_neurons(pair, statistics):
    """R_IW has no meaning where matrices are whole: they are ranked by all of their neurons."""
    few, all_of_it = (
        config(compensation="spectral", in_weight_ratio=ratio) for ratio in (0.1, 1.0)
    )
    chosen = [
        hcnr.select(statistics["output"], pair["base"], pair["tuned"], one)
        for one in (few, all_of_it)
    ]
    assert chosen[0].perturbation == chosen[1].perturbation
    assert all(mask.all() for mask in chosen[0].masks.values())


def test_statistics_need_the_data_beside_them(pair, statistics, tmp_path):
    settings = config(compensation="spectral", **WHOLE)
    found = statistics["output"]
    with pytest.raises(DataError, match="no honesty data was given"):
        hcnr.restore(pair["base"], pair["tuned"], statistics=found, config=settings)
    other = write_jsonl(tmp_path / "other.jsonl", TASK[:8][::-1])
    with pytest.raises(StatisticsError, match="other task samples than those of"):
        hcnr.restore(
            pair["base"], pair["tuned"], pair["honesty"], other, statistics=found, config=settings
        )
    whole = hcnr.restore(**pair, out=tmp_path / "a", config=settings)
    beside = hcnr.restore(**pair, out=tmp_path / "b", statistics=found, config=settings)
    assert hashes(whole) == hashes(beside)


def test_the_report_tells_what_is_kept_along_the_spectrum(pair, tmp_path):
    settings = config(compensation="spectral", task_weight=0.3, **WHOLE)
    out = hcnr.restore(**pair, out=tmp_path / "o", config=settings)
    facts = report(out)
    for entry in facts["matrices"]:
        found = entry["two_sided"]
        spectrum = found["spectrum"]
        assert len(spectrum["kept"]) == len(spectrum["edges"]) + 1
        assert sum(spectrum["energy"]) == pytest.approx(1)
        assert sum(spectrum["directions"]) == pytest.approx(entry["parameters"])
        assert 0 < found["restored_share"] < 1
        left = sum(e * k for e, k in zip(spectrum["energy"], spectrum["kept"], strict=True))
        assert found["honesty_left"] == pytest.approx(left)
    directions = sum(entry["two_sided"]["restored_directions"] for entry in facts["matrices"])
    assert facts["summary"]["restored_directions"] == pytest.approx(directions)


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_in_one_model_are_what_restore_writes(pair, statistics, tmp_path, kind):
    """Also after another candidate, with other task weights, and undone in between."""
    settings = config(compensation=kind, steps=2, task_weight=3.0, **WHOLE)
    found, stages = statistics["output"], Stages()
    open_pair = Pair.open(pair["base"], pair["tuned"], settings, stages)
    sets = {"honesty": data(HONESTY), "task": data(TASK)}
    selection = hcnr.select(found, pair["base"], pair["tuned"], settings)
    tuned = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    before = bits(tuned)
    with (
        SpectralBases.measure(
            open_pair, open_pair.matrices, sets, settings, stages, kinds=settings.bases
        ) as spectral_bases,
        Overlay(tuned) as overlay,
    ):
        work = Candidates(open_pair, found, overlay, spectral_bases=spectral_bases)
        for weight in (3.0, 0.2, 3.0):
            changed = settings.replace(task_weight=weight)
            work.apply(changed, selection)
            out = hcnr.restore(**pair, out=tmp_path / f"{weight}", config=changed, overwrite=True)
            assert bits(tuned) == bits(AutoModelForCausalLM.from_pretrained(out))
    assert bits(tuned) == before


@pytest.mark.parametrize("kind", ["balanced", *KINDS])
def test_auto_takes_the_smallest_weight_that_keeps_the_task(learned, tmp_path, kind):
    """What the report says of held-back samples is true of the checkpoint that was written."""
    steps = {"steps": 1, "step_size": 0.05}
    settings = config(
        compensation=kind, task_weight="auto", max_task_drop_percent=30.0, **WHOLE, **steps
    )  # fmt: skip
    out = hcnr.restore(**learned, out=tmp_path / "o", config=settings)
    facts = report(out)["two_sided"]
    weight = facts["task_weight"]
    assert weight == min(one["task_weight"] for one in facts["search"] if one["kept"])
    assert facts["held_back"] == 8
    again = RestoreConfig.from_file(out / "hcnr_config.yaml")
    assert again.task_weight == weight
    rest = tokenize(load_samples(learned["task"], limit=16).part(8, 16), tokenizer()).samples

    def loss_of(path):
        model = AutoModelForCausalLM.from_pretrained(path).double()
        with torch.no_grad():
            found = [oracle.sample_loss(model, one.input_ids, one.response_start) for one in rest]
        return float(torch.stack(found).mean())

    losses = {"base": loss_of(learned["base"]), "tuned": loss_of(learned["tuned"])}
    losses["out"] = loss_of(out)
    kept = 100 * (losses["base"] - losses["out"]) / (losses["base"] - losses["tuned"])
    chosen = next(one for one in facts["search"] if one["task_weight"] == weight)
    assert chosen["retention"] == pytest.approx(kept, rel=1e-3) and kept >= 70
    # The same weight given as a number writes the same checkpoint.
    same = hcnr.restore(**learned, out=tmp_path / "again", config=again)
    assert hashes(same) == hashes(out)


def test_auto_says_nothing_where_nothing_has_a_task_weight(pair, tmp_path):
    for kind in ("none", "sum", "joint"):
        settings = config(compensation=kind)
        found = [
            hcnr.restore(**pair, out=tmp_path / f"{kind}{weight}", config=settings.replace(
                task_weight=weight
            ))
            for weight in ("auto", 1.0)
        ]  # fmt: skip
        assert hashes(found[0]) == hashes(found[1])
        assert not settings.replace(task_weight="auto").searches


def test_auto_without_a_gain_to_keep(learned, tmp_path):
    settings = config(compensation="spectral", task_weight="auto", **WHOLE)
    swapped = {**learned, "base": learned["tuned"], "tuned": learned["base"]}
    with pytest.raises(DataError, match=r"base and tuned .* seem to be exchanged"):
        hcnr.restore(**swapped, out=tmp_path / "o", config=settings)
    assert not (tmp_path / "o").exists()
