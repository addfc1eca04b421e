"""Repairs of whole matrices: what their records say, and how they end when something fails."""

import json
import math
import os

import pytest
import torch
from transformers import AutoModelForCausalLM

import hcnr
import oracle
from hcnr.config import RestoreConfig
from hcnr.curvature.gradient import mean_gradient
from hcnr.curvature.groups import GIB
from hcnr.curvature.moments import second_moments
from hcnr.errors import ConfigError, DataError, ModelError, OutputError
from hcnr.repair.candidates import Candidates
from hcnr.search.grid import Grid
from pairs import HONESTY, TASK, bits, config, hashes, tokenizer, write_jsonl
from wholes import KINDS, WHOLE, data, deltas, largest_block, moments, report, written


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_traces_of_what_was_written(pair, loaded, tmp_path, kind):
    """Honesty and task terms of the written E, by dense float64 products."""
    settings = config(compensation=kind, task_weight=0.4, steps=2, **WHOLE)
    out = hcnr.restore(**pair, out=tmp_path / "o", config=settings)
    names = [entry["name"] for entry in report(out)["matrices"]]
    base, delta = deltas(loaded, names)
    near = moments(loaded["base" if kind == "spectral" else "tuned"], names, HONESTY)
    far = moments(loaded["tuned"], names, TASK)
    found = written(out, names)

    def term(matrix, sides):
        inputs, outputs = (oracle.normalised(side, 0.05) for side in sides)
        return float(torch.trace(outputs @ matrix @ inputs @ matrix.T))

    for entry in report(out)["matrices"]:
        name, told = entry["name"], entry["two_sided"]
        deviation = found[name] - base[name].detach()
        left = term(deviation, near[name]) / term(delta[name], near[name])
        lost = term(deviation - delta[name], far[name]) / term(delta[name], far[name])
        assert told["honesty_left"] == pytest.approx(left, rel=2e-3)
        assert told["task_lost"] == pytest.approx(lost, rel=2e-3)
        assert (told["restored_directions"] is None) == (kind != "spectral")


def _budget(pair, passes):
    """GiB that hold one block but not two."""
    return 1.01 * largest_block(pair, passes) / GIB


@pytest.mark.parametrize("where", ["restore", "sweep"])
def test_a_failure_leaves_no_file_behind(pair, tmp_path, monkeypatch, where):
    """Neither in a later group's pass nor in a sweep's evaluation before any candidate."""
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spill))
    seen = []

    def failing(*args, **settings):
        seen.append(os.listdir(spill))
        raise KeyboardInterrupt

    settings = config(compensation="natural", memory_budget=_budget(pair, 2), **WHOLE)
    if where == "restore":
        calls = []

        def third(*args, **settings):
            calls.append(args)
            return second_moments(*args, **settings) if len(calls) < 3 else failing()

        monkeypatch.setattr("hcnr.curvature.spectral_bases.second_moments", third)
        with pytest.raises(KeyboardInterrupt):
            hcnr.restore(**pair, out=tmp_path / "o", config=settings)
        assert not (tmp_path / "o").exists()
    else:
        with pytest.raises(KeyboardInterrupt):
            hcnr.sweep(
                **pair, evaluate=failing, config=settings.replace(compensation="sum"),
                grid=Grid(compensation=("natural",), cross_weight=(1.0,)),
            )  # fmt: skip
    assert len(seen) >= 1 and seen[-1], "files were there while it ran"
    assert os.listdir(spill) == []


def test_a_full_disk_is_one_sentence(pair, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hcnr.curvature.spectral_bases.torch.save", full)
    settings = config(compensation="natural", memory_budget=_budget(pair, 2), **WHOLE)
    with pytest.raises(OutputError, match=r"No space left.*set TMPDIR"):
        hcnr.restore(**pair, out=tmp_path / "o", config=settings)
    assert not (tmp_path / "o").exists()


def test_too_small_a_budget_is_found_before_the_scores(pair):
    watched = []

    class Watcher:
        def begin(self, stage):
            watched.append(stage)

        def advance(self, done, total): ...

    for_all = config(compensation="spectral", memory_budget=1e-6, **WHOLE)
    with pytest.raises(ConfigError, match="raise --memory-budget"):
        hcnr.restore(**pair, config=for_all, watcher=Watcher())
    assert watched == ["check the checkpoints"]


def test_auto_runs_again_from_its_own_configuration(learned, tmp_path):
    """Also where samples are few: what was held back is not measured then either."""
    records = [json.loads(line) for line in learned["task"].read_text().splitlines()][:10]
    few = {**learned, "task": write_jsonl(tmp_path / "few.jsonl", records)}
    settings = config(
        compensation="spectral", task_weight="auto", max_task_drop_percent=40.0, **WHOLE
    )  # fmt: skip
    out = hcnr.restore(**few, out=tmp_path / "o", config=settings)
    found = report(out)
    assert found["data"]["task"]["samples"] == found["data"]["honesty"]["samples"] == 7
    assert (
        found["two_sided"]["held_back"] == 3 and found["two_sided"]["max_task_drop_percent"] == 40
    )
    assert len(found["two_sided"]["held_back_sha256"]) == 64
    assert any("samples is 7, not 8" in message for message in found["warnings"])
    assert any("by 3 held-back samples only" in message for message in found["warnings"])
    again = RestoreConfig.from_file(out / "hcnr_config.yaml")
    assert again.samples == 7
    same = hcnr.restore(**few, out=tmp_path / "again", config=again)
    assert hashes(same) == hashes(out)


def test_auto_with_statistics_of_all_samples_says_what_to_do(learned):
    settings = config(compensation="balanced", task_weight="auto", samples=24, **WHOLE)
    measured = hcnr.measure(
        **{**learned, "honesty": [*HONESTY, *HONESTY, *HONESTY]}, config=settings
    )
    assert measured.data["task"]["samples"] == 24  # measuring alone holds nothing back
    with pytest.raises(DataError, match=r"more than the 24 that are measured.*--samples"):
        hcnr.restore(
            learned["base"], learned["tuned"], HONESTY * 3, learned["task"],
            statistics=measured, config=settings, tokenizer=tokenizer(),
        )  # fmt: skip


def test_a_gain_is_looked_for_before_anything_is_measured(learned):
    swapped = {**learned, "base": learned["tuned"], "tuned": learned["base"]}
    watched = []

    class Watcher:
        def begin(self, stage):
            watched.append(stage)

        def advance(self, done, total): ...

    settings = config(compensation="balanced", task_weight="auto", **WHOLE)
    with pytest.raises(DataError, match=r"base and tuned .* seem to be exchanged"):
        hcnr.restore(**swapped, config=settings, watcher=Watcher())
    assert watched[-1] == "losses of base and tuned"
    assert not [stage for stage in watched if stage.startswith("score")]


def test_a_candidate_that_overflows_is_not_kept_and_the_search_goes_on(
    learned, tmp_path, monkeypatch
):
    apply = Candidates.apply

    def choosy(self, settings, selection):
        if settings.mu < 10:
            raise ModelError("the loss of sample 1 is nan")
        apply(self, settings, selection)

    monkeypatch.setattr(Candidates, "apply", choosy)
    settings = config(
        compensation="spectral", task_weight="auto", max_task_drop_percent=90.0, **WHOLE
    )
    out = hcnr.restore(**learned, out=tmp_path / "o", config=settings)
    tried = report(out)["two_sided"]["search"]
    assert [one for one in tried if one["retention"] is None]
    assert all((one["retention"] is None) == (one["task_weight"] < 10) for one in tried)
    assert 10 <= report(out)["two_sided"]["task_weight"] < 14


@pytest.mark.parametrize("kind", ["balanced", *KINDS])
def test_nothing_selected_is_tuned_bit_for_bit(learned, tmp_path, kind):
    settings = config(compensation=kind, cross_weight_ratio=0, task_weight="auto")
    out = hcnr.restore(**learned, out=tmp_path / "o", config=settings)
    assert bits(AutoModelForCausalLM.from_pretrained(out)) == bits(
        AutoModelForCausalLM.from_pretrained(learned["tuned"])
    )
    facts = report(out)["two_sided"]
    assert (facts["search"], facts["steps"], facts["honesty_loss"]) == ([], [], None)


def test_without_a_gradient_natural_writes_tuned(pair, tmp_path, monkeypatch):
    def flat(*args, **settings):
        found = mean_gradient(*args, **settings)
        return found._replace(weights={n: w * 0 for n, w in found.weights.items()})

    monkeypatch.setattr("hcnr.repair.natural.mean_gradient", flat)
    out = hcnr.restore(**pair, out=tmp_path / "o", config=config(compensation="natural", **WHOLE))
    assert bits(AutoModelForCausalLM.from_pretrained(out)) == bits(
        AutoModelForCausalLM.from_pretrained(pair["tuned"])
    )


@pytest.mark.parametrize("scale", [math.nan, math.inf, 1e-42])
def test_gradients_that_no_step_can_follow(pair, monkeypatch, scale):
    def bent(*args, **settings):
        found = mean_gradient(*args, **settings)
        return found._replace(weights={n: w * scale for n, w in found.weights.items()})

    monkeypatch.setattr("hcnr.repair.natural.mean_gradient", bent)
    settings = config(compensation="natural", **WHOLE)
    if scale == 1e-42:
        restored = hcnr.restore(**pair, config=settings)
        assert restored.hcnr_report["two_sided"]["steps"] == []
        return
    with pytest.raises(ModelError, match=r"gradient of model\.layers\.0.* before step 1; measure"):
        hcnr.restore(**pair, config=settings)


def test_steps_see_the_weights_that_will_be_written(pair, tmp_path):
    """In a bfloat16 checkpoint measured in float32 too: loss and gradient after rounding."""
    paths = {}
    for role in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(pair[role], dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
        paths[role] = tmp_path / role
    settings = config(compensation="natural", steps=2, dtype="float32", **WHOLE)
    out = hcnr.restore(**{**pair, **paths}, out=tmp_path / "o", config=settings)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert next(iter(written(out, ["model.layers.0.mlp.up_proj"]).values())).dtype == torch.float64
    loss, _ = oracle.mean_gradient(model, ["model.layers.0.mlp.up_proj"], data(HONESTY))
    assert report(out)["two_sided"]["honesty_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("kind", ["spectral", "natural"])
def test_recomputation_reaches_every_pass_and_changes_nothing(pair, tmp_path, monkeypatch, kind):
    asked = []
    for place, name in (
        ("curvature.spectral_bases", "second_moments"),
        ("repair.natural", "mean_gradient"),
    ):
        own = getattr(__import__(f"hcnr.{place}", fromlist=[name]), name)

        def spied(*args, _own=own, **settings):
            asked.append(settings["gradient_checkpointing"])
            return _own(*args, **settings)

        monkeypatch.setattr(f"hcnr.{place}.{name}", spied)
    outs = [
        hcnr.restore(
            **pair,
            out=tmp_path / str(recompute),
            config=config(compensation=kind, gradient_checkpointing=recompute, steps=2, **WHOLE),
        )
        for recompute in (True, False)
    ]
    half = len(asked) // 2
    assert asked == [True] * half + [False] * half and half == (4 if kind == "natural" else 2)
    names = [entry["name"] for entry in report(outs[0])["matrices"]]
    first, second = (written(out, names) for out in outs)
    assert all(oracle.relative(first[name], second[name]) <= 1e-5 for name in names)
