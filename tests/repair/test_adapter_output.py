"""Results as LoRA adapters: PEFT makes the whole checkpoint of them, or the error is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import hcnr
from hcnr.checkpoint import Checkpoint
from hcnr.cli import app
from hcnr.errors import ConfigError, HcnrError, ModelError
from hcnr.evaluation.evaluated_models import name_evaluated
from hcnr.repair.adapter_output import factorise
from pairs import bits, config, hashes

pytest.importorskip("peft", reason="the package peft is not installed")

from adapters import adapted, assert_equal, lora, merged_by_user, write_adapter

WIDE = 40
"""No matrix of the pair has a higher rank."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data(pair):
    return {"honesty": pair["honesty"], "task": pair["task"]}


def facts(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "hcnr_report.json").read_text())["adapter"]


@pytest.mark.parametrize("kind", ["none", "joint", "spectral"])
def test_on_tuned_it_is_the_whole_checkpoint(pair, data, tmp_path, kind):
    ends = pair["base"], pair["tuned"]
    settings = config(compensation=kind)
    full = hcnr.restore(*ends, **data, out=tmp_path / "full", config=settings)
    out = tmp_path / "adapter"
    made = hcnr.restore(
        *ends, **data, out=out, config=settings, out_format="adapter", adapter_rank=WIDE
    )
    assert made == out and facts(out)["on"] == "tuned" and facts(out)["exact"]
    assert not list(out.glob("model*"))
    assert_equal(full, merged_by_user(pair["tuned"], out))
    ranks = {one["rank"] for one in facts(out)["matrices"].values()}
    selected = json.loads((full / "hcnr_report.json").read_text())["matrices"]
    assert facts(out)["matrices"].keys() == {one["name"] for one in selected}
    if kind == "none":
        # One row of the change for every neuron.
        assert ranks == {one["restored"] for one in selected}
    verdicts = [json.loads((place / "hcnr_report.json").read_text())["verdict"]
                for place in (full, out)]  # fmt: skip
    for one, other in zip(*(v["losses"].values() for v in verdicts), strict=True):
        assert one["restored"] == pytest.approx(other["restored"], abs=1e-4)


def test_truncated_by_svd_with_its_error(pair, data, tmp_path):
    ends = pair["base"], pair["tuned"]
    full = hcnr.restore(*ends, **data, out=tmp_path / "full", config=config())
    out = tmp_path / "adapter"
    hcnr.restore(*ends, **data, out=out, config=config(), out_format="adapter", adapter_rank=2)
    state, found = merged_by_user(pair["tuned"], out), facts(out)
    before, after, squares = Checkpoint.open(pair["tuned"]), Checkpoint.open(full), [0.0, 0.0]
    for name, one in found["matrices"].items():
        change = (after.load(f"{name}.weight") - before.load(f"{name}.weight")).double()
        values = torch.linalg.svdvals(change)
        best = float(values[2:].norm() / values.norm())
        left = float((after.load(f"{name}.weight") - state[f"{name}.weight"]).double().norm())
        assert one["rank"] == 2 and not one["exact"]
        assert one["error"] == pytest.approx(best, rel=1e-3)
        assert left / float(values.norm()) == pytest.approx(best, rel=1e-2)
        squares[0] += float(values[2:].square().sum())
        squares[1] += float(values.square().sum())
    assert found["error"] == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("kind", ["none", "sum", "balanced"])
def test_on_base_where_tuned_was_an_adapter(pair, data, tmp_path, kind):
    """Rank 3 went in, and rank 3 holds every repair along the output axis."""
    tuned = write_adapter(pair["base"], tmp_path / "lora", lora(target_modules="all-linear"))
    settings = config(compensation=kind)
    full = hcnr.restore(pair["base"], tuned, **data, out=tmp_path / "full", config=settings)
    out = tmp_path / "out"
    hcnr.restore(pair["base"], tuned, **data, out=out, config=settings, out_format="adapter")
    assert_equal(full, merged_by_user(pair["base"], out))
    found = facts(out)
    assert found["on"] == "base" and found["base"] == "base" and found["exact"]
    # Of all that the adapter changed, and not of what was repaired alone.
    assert len(found["matrices"]) == 14
    assert {one["rank"] for one in found["matrices"].values()} == {3}
    card = (out / "README.md").read_text()
    assert "library_name: peft" in card and "- lora" in card
    # It can be evaluated, as it names what it was put on.
    (subject,) = name_evaluated([out])
    for name in found["matrices"]:
        torch.testing.assert_close(
            subject.source.weight(name),
            Checkpoint.open(full).load(f"{name}.weight"),
            rtol=0,
            atol=2e-6,
        )


def test_the_same_bytes_again(pair, data, tmp_path):
    for name in ("one", "two"):
        hcnr.restore(
            pair["base"], pair["tuned"], **data, out=tmp_path / name, config=config(),
            out_format="adapter",
        )  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert hashes(one) == hashes(two)
    settings = [json.loads((p / "adapter_config.json").read_text()) for p in (one, two)]
    assert settings[0] == settings[1]
    assert settings[0]["base_model_name_or_path"] == str(pair["tuned"])


def test_models_in_memory(pair, data, loaded, tmp_path):
    kept = bits(loaded["tuned"])
    hcnr.restore(
        loaded["base"], loaded["tuned"], **data, out=tmp_path / "out", config=config(),
        out_format="adapter", adapter_rank=WIDE, tokenizer=pair["tuned"],
    )  # fmt: skip
    assert bits(loaded["tuned"]) == kept
    full = hcnr.restore(pair["base"], pair["tuned"], **data, out=tmp_path / "full", config=config())
    assert_equal(full, merged_by_user(pair["tuned"], tmp_path / "out"))


def test_factors_are_as_wide_as_rounding_asks():
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(size, generator=generator) for size in ((30, 4), (4, 20)))
    before = torch.randn(30, 20, generator=generator)
    for dtype, rank in ((torch.float32, 4), (torch.bfloat16, 4)):
        changed = (before.to(dtype).float() + up @ down).to(dtype)
        found = factorise(changed, before.to(dtype), 10)
        assert found is not None and found.rank == rank and found.exact
        change = changed.float() - before.to(dtype).float()
        assert float((found.up @ found.down - change).norm()) == pytest.approx(
            found.left_out, rel=1e-3, abs=1e-6
        )
    assert factorise(before, before, 10) is None


def test_refusals(pair, data, tmp_path):
    def refused(kind: type[HcnrError], text: str, tuned: Any = pair["tuned"], **options: Any):
        given = {"out": tmp_path / "out", "config": config(), "out_format": "adapter", **options}
        with pytest.raises(kind, match=text):
            hcnr.restore(pair["base"], tuned, **data, **given)
        assert not (tmp_path / "out").exists()

    refused(ConfigError, "out is None", out=None)
    refused(ConfigError, "adapter_rank is 0", adapter_rank=0)
    refused(ConfigError, "a whole checkpoint has none", out_format="full", adapter_rank=4)
    refused(ConfigError, "expected 'full', 'adapter' or 'patch'", out_format="lora")
    head = write_adapter(pair["base"], tmp_path / "norm", lora(modules_to_save=["norm"]))
    refused(ModelError, "changes model.*norm.weight, which is no linear layer", head)
    nothing = config(compensation="none", in_weight_ratio=0.0)
    refused(ModelError, "an adapter would hold nothing", config=nothing)
    merged_in_memory = adapted(AutoModelForCausalLM.from_pretrained(pair["base"]), lora())
    refused(ConfigError, "was merged in memory from an adapter", merged_in_memory)


def test_command_line(pair, data, tmp_path, capsys):
    arguments = [str(pair[key]) for key in ("base", "tuned")]
    arguments += ["--honesty", str(pair["honesty"]), "--task", str(pair["task"])]
    arguments += ["--samples", "8", "--preset", "paper", "--out", str(tmp_path / "out")]
    arguments += ["--out-format", "adapter", "--adapter-rank", "3"]
    app(["restore", *arguments], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "Adapter on tuned" in said and "relative" in said
    assert "matrices need a rank above 3 (--adapter-rank)" in said
    assert "verdict:" in said
