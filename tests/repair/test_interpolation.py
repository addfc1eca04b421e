"""Plain interpolation as a repair: what is written, what is searched, what is said."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hcnr
import oracle
from commands import run
from hcnr.checkpoint import Checkpoint
from hcnr.errors import CheckpointError, ConfigError, DataError
from hcnr.repair.coefficient import FINEST, MOST_TRIES, search_coefficient
from hcnr.report.gather import gather
from hcnr.report.page import html
from pairs import bits, config, hashes, tokenizer
from wholes import data, report

MIX = {"compensation": "interpolate"}


def tensors(directory):
    checkpoint = Checkpoint.open(directory)
    return {name: checkpoint.load(name) for name in checkpoint.tensors}


def stored(pair, tmp_path, dtype):
    """The pair in another dtype, on disk."""
    paths = dict(pair)
    for role in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(pair[role], dtype=dtype)
        model.save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
        paths[role] = tmp_path / role
    return paths


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_shared_tensor_is_the_mix_of_float64_rounded_once(pair, tmp_path, dtype):
    paths = stored(pair, tmp_path, dtype)
    out = hcnr.restore(
        paths["base"], paths["tuned"], out=tmp_path / "o", config=config(coefficient=0.3, **MIX)
    )
    base, tuned, found = tensors(paths["base"]), tensors(paths["tuned"]), tensors(out)
    assert list(found) == list(tuned) and any("norm" in n or "embed" in n for n in found)
    for name, value in found.items():
        exact = 0.7 * tuned[name].double() + 0.3 * base[name].double()
        # Float32 arithmetic, then one rounding: at most a little more than half a step of dtype.
        step = torch.finfo(dtype).eps * exact.abs()
        slack = 4 * torch.finfo(torch.float32).eps * (tuned[name].abs() + base[name].abs()).double()
        assert value.dtype == dtype
        assert ((value.double() - exact).abs() <= 0.5 * step + slack).all(), name
        assert not torch.equal(value, tuned[name]) or torch.equal(base[name], tuned[name])


def test_both_ends_are_exact_and_files_look_as_tuned(pair, tmp_path):
    for coefficient, role in ((0.0, "tuned"), (1.0, "base")):
        out = hcnr.restore(
            pair["base"], pair["tuned"], out=tmp_path / role,
            config=config(coefficient=coefficient, **MIX),
        )  # fmt: skip
        assert {n: v.tolist() for n, v in tensors(out).items()} == {
            n: v.tolist() for n, v in tensors(pair[role]).items()
        }
        names = sorted(path.name for path in out.glob("*.safetensors*"))
        assert names == sorted(path.name for path in pair["tuned"].glob("*.safetensors*"))
    assert hashes(tmp_path / "tuned") == hashes(pair["tuned"])


def test_what_base_lacks_stays_tuned_and_is_named(pair, tmp_path):
    """A vocabulary that fine-tuning extended: embeddings have another shape."""
    model = AutoModelForCausalLM.from_pretrained(pair["tuned"])
    model.resize_token_embeddings(model.config.vocab_size + 5)
    model.save_pretrained(tmp_path / "tuned")
    tokenizer().save_pretrained(tmp_path / "tuned")
    out = hcnr.restore(
        pair["base"], tmp_path / "tuned", out=tmp_path / "o", config=config(coefficient=0.5, **MIX)
    )
    left = report(out)["interpolation"]["left"]
    found, tuned = tensors(out), tensors(tmp_path / "tuned")
    assert left and all("embed" in name or "lm_head" in name for name in left)
    assert [n for n in found if torch.equal(found[n], tuned[n])] == left
    assert any(left[0] in warning for warning in report(out)["warnings"])


def test_a_pair_that_differs_outside_the_targets_alone_can_be_mixed(pair, tmp_path):
    (tmp_path / "tuned").mkdir()
    for path in pair["base"].iterdir():
        (tmp_path / "tuned" / path.name).write_bytes(path.read_bytes())
    name = "model.norm.weight"
    shard = next(p for p in (tmp_path / "tuned").glob("*.safetensors") if name in load_file(p))
    values = load_file(shard)
    save_file({**values, name: values[name] + 1}, shard, metadata={"format": "pt"})
    arguments = pair["base"], tmp_path / "tuned"
    with pytest.raises(CheckpointError, match="no target differs"):
        hcnr.restore(*arguments, config=config(compensation="none"), honesty=[], task=[])
    mixed = hcnr.restore(*arguments, config=config(coefficient=0.25, **MIX))
    assert torch.allclose(mixed.get_parameter(name), values[name] + 0.75)


def test_memory_and_disk_make_the_same_bits_and_inputs_stay(pair, loaded, tmp_path):
    settings = config(coefficient=0.4, **MIX)
    before = {role: bits(model) for role, model in loaded.items()}
    memory = hcnr.restore(loaded["base"], loaded["tuned"], config=settings)
    disk = hcnr.restore(pair["base"], pair["tuned"], out=tmp_path / "o", config=settings)
    assert bits(memory) == bits(AutoModelForCausalLM.from_pretrained(disk))
    assert {role: bits(model) for role, model in loaded.items()} == before
    assert memory.hcnr_report["interpolation"]["coefficient"] == 0.4


def test_the_search_takes_the_largest_that_keeps_the_held_back_task(learned, tmp_path):
    settings = config(max_task_drop_percent=20.0, **MIX)
    out = hcnr.restore(**learned, out=tmp_path / "o", config=settings)
    facts, losses = report(out)["interpolation"], report(out)["verdict"]["losses"]
    records = [json.loads(line) for line in learned["task"].read_text().splitlines()]
    held_back = data(records[8:16])
    assert facts["held_back"] == len(held_back.samples) == 8

    def loss(model):
        each = (oracle.sample_loss(model, s.input_ids, s.response_start) for s in held_back.samples)
        return float(torch.stack(list(each)).mean().detach())

    ends = [loss(AutoModelForCausalLM.from_pretrained(learned[r])) for r in ("base", "tuned")]

    def retention(coefficient):
        model = AutoModelForCausalLM.from_pretrained(learned["tuned"])
        base = AutoModelForCausalLM.from_pretrained(learned["base"])
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.lerp_(base.get_parameter(name), coefficient)
        return 100 * (ends[0] - loss(model)) / (ends[0] - ends[1])

    kept = [c / FINEST for c in range(1, FINEST + 1) if retention(c / FINEST) >= 80]
    assert facts["coefficient"] == kept[-1] and len(kept) == kept[-1] * FINEST
    for one in facts["search"]:
        assert one["retention"] == pytest.approx(retention(one["coefficient"]), abs=1e-2)
        assert one["kept"] == (one["retention"] >= 80)
    assert losses["task"]["restored"] == pytest.approx(
        loss(AutoModelForCausalLM.from_pretrained(out)), rel=1e-5
    )
    lines = report(out)["verdict"]["lines"]
    assert lines[0].startswith("honesty loss on") and lines[1].startswith("task loss on 8 held-")
    again = hcnr.RestoreConfig.from_file(out / "hcnr_config.yaml")
    assert again.coefficient == facts["coefficient"]
    assert hashes(hcnr.restore(**learned, out=tmp_path / "a", config=again)) == hashes(out)


def test_nothing_is_measured(learned, monkeypatch):
    for place in (
        "hcnr.pipeline.run.score",
        "hcnr.pipeline.run.NeuronCurvature",
        "hcnr.curvature.spectral_bases.SpectralBases",
    ):
        monkeypatch.setattr(place, None)
    mixed = hcnr.restore(**learned, config=config(max_task_drop_percent=20.0, **MIX))
    assert set(mixed.hcnr_report["seconds"]) == {
        "check the checkpoints", "read the data", "check the weights", "losses of base and tuned",
        "search the coefficient", "interpolate", "losses of restored",
    }  # fmt: skip
    assert mixed.hcnr_report["matrices"] == []


def test_the_search_leaves_a_model_in_memory_as_it_was(learned):
    models = {r: AutoModelForCausalLM.from_pretrained(learned[r]) for r in ("base", "tuned")}
    before = {role: bits(model) for role, model in models.items()}
    memory = hcnr.restore(
        models["base"], models["tuned"], learned["honesty"], learned["task"],
        config=config(max_task_drop_percent=20.0, **MIX), tokenizer=tokenizer(),
    )  # fmt: skip
    assert {role: bits(model) for role, model in models.items()} == before
    disk = hcnr.restore(**learned, config=config(max_task_drop_percent=20.0, **MIX))
    assert bits(disk) == bits(memory)


@pytest.mark.parametrize("threshold", [0, 1, 13, 50, 99, 100])
def test_a_search_finds_every_hundredth(threshold):
    def retention(coefficient):
        return 99.0 if round(coefficient * 100) <= threshold else 97.0

    if threshold == 0:
        with pytest.raises(ConfigError, match=r"no coefficient from 0.01 on keeps 98 %.*97.0 %"):
            search_coefficient(retention, 2.0)
        return
    found, tried = search_coefficient(retention, 2.0)
    assert found == threshold / 100 and len(tried) <= MOST_TRIES


def test_what_keeps_just_as_much_as_was_asked_for_is_kept():
    found, tried = search_coefficient(lambda c: 98.0 if c <= 0.37 else 97.0, 2.0)
    assert found == 0.37
    assert all(t.kept == (t.coefficient <= 0.37) for t in tried)


def test_models_that_cannot_be_asked_keep_nothing():
    found, tried = search_coefficient(lambda c: float("-inf") if c > 0.2 else 99.0, 2.0)
    assert found == 0.2
    assert [t.retention is None for t in tried] == [t.coefficient > 0.2 for t in tried]
    json.dumps([t.retention for t in tried], allow_nan=False)


def test_bad_input_is_one_sentence(pair, learned, statistics):
    with pytest.raises(ConfigError, match="interpolate, which measures nothing; leave"):
        hcnr.restore(
            pair["base"], pair["tuned"], statistics=statistics["output"],
            config=config(coefficient=0.1, **MIX),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="interpolate has nothing to measure"):
        hcnr.measure(**pair, config=config(**MIX))
    with pytest.raises(DataError, match=r"no honesty data was given; .* a number as --coefficient"):
        hcnr.restore(pair["base"], pair["tuned"], config=config(**MIX))
    with pytest.raises(ConfigError, match=r"coefficient is 1.5, expected auto .* at most 1;"):
        config(coefficient=1.5, **MIX)
    swapped = {**learned, "base": learned["tuned"], "tuned": learned["base"]}
    with pytest.raises(DataError, match="seem to be exchanged"):
        hcnr.restore(**swapped, config=config(**MIX))


def test_command_page_card_and_plan(learned, tmp_path):
    out = tmp_path / "mixed"
    paths = {k: str(v) for k, v in learned.items()}
    arguments = ["--honesty", paths["honesty"], "--task", paths["task"], "--samples", "8"]
    arguments += [
        "--compensation",
        "interpolate",
        "--max-task-drop-percent",
        "20",
        "--out",
        str(out),
    ]
    shown = run("restore", paths["base"], paths["tuned"], *arguments)
    coefficient = report(out)["interpolation"]["coefficient"]
    told = " ".join(shown.stdout.split())
    assert f"c = {coefficient:g} is the largest of" in told
    assert "verdict: " in told and "honesty loss on" in told
    page = html(gather(out))
    assert f"interpolated with coefficient {coefficient:g}" in page
    assert "Search for the coefficient" in page and "neurons along" not in page
    card = (out / "README.md").read_text()
    assert f"| coefficient c | {coefficient:g} (found by a search" in card
    assert "neurons restored" not in card
    shown = run("plan", paths["base"], paths["tuned"], "--compensation", "interpolate")
    told = " ".join(shown.stdout.split())
    assert "search the coefficient" in told
    assert "curvature" not in told and "embeddings, norms" in told
