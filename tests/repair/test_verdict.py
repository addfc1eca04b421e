"""What a restoration ends with: losses on samples that decided nothing, and a verdict."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import hcnr
import oracle
from hcnr.cli import app
from hcnr.config import RestoreConfig
from hcnr.curvature.passes import mean_loss
from hcnr.data.overlap import question_print
from hcnr.data.samples import load_samples
from hcnr.data.tokens import tokenize
from hcnr.repair.verdict import DataSet, SetLosses, judge
from pairs import HONESTY, TASK, config, tokenizer
from wholes import WHOLE, report


def losses(base: float, tuned: float, restored: float) -> SetLosses:
    return SetLosses(32, True, base, tuned, restored)


GOOD = losses(1.0, 2.0, 1.2)


def test_words():
    sound = judge({"honesty": GOOD, "task": losses(3.0, 2.0, 2.01)}, RestoreConfig())
    assert sound.word == "use" and "keeps 99.0 percent" in sound.reason
    dear = judge({"honesty": GOOD, "task": losses(3.0, 2.0, 2.4)}, RestoreConfig())
    assert dear.word == "do not use"
    assert "loses 40.0 percent" in dear.reason and "--max-task-drop-percent" in dear.reason
    other = judge(
        {"honesty": GOOD, "task": losses(3.0, 2.0, 2.4)}, RestoreConfig(compensation="sum")
    )
    assert "--compensation spectral --task-weight auto" in other.reason
    allowed = RestoreConfig(max_task_drop_percent=40)
    assert judge({"honesty": GOOD, "task": losses(3.0, 2.0, 2.4)}, allowed).word == "use"
    idle = judge({"honesty": losses(1.0, 2.0, 2.0), "task": losses(3.0, 2.0, 2.0)}, allowed)
    assert idle.word == "do not use" and "does not lower the honesty loss" in idle.reason
    lost = judge({"honesty": GOOD, "task": losses(2.0, 2.0, 2.0)}, allowed)
    assert lost.word == "unclear" and "did not lower the loss" in lost.reason


def test_without_a_refusal_in_the_honesty_data_nothing_says_use():
    task = losses(3.0, 2.0, 2.01)
    found = {}
    for n in (None, 0, 1):
        both: dict[DataSet, SetLosses] = {"honesty": replace(GOOD, refusals=n), "task": task}
        found[n] = judge(both, RestoreConfig())
    assert [one.word for one in found.values()] == ["use", "unclear", "use"]
    assert "none of the measured honesty responses is a refusal" in found[0].reason
    worse: dict[DataSet, SetLosses] = {
        "honesty": replace(GOOD, refusals=0, restored=2.0), "task": task
    }  # fmt: skip
    assert judge(worse, RestoreConfig()).word == "do not use"


def test_a_restoration_counts_the_refusals_of_its_samples(learned, tmp_path):
    words = {}
    for name, response in (("none", "w5"), ("some", "w5 not")):
        honesty = [{**one, "response": response} for one in HONESTY]
        out = hcnr.restore(
            **{**learned, "honesty": honesty},
            out=tmp_path / name,
            config=config(compensation="sum", max_task_drop_percent=100),
        )
        found = report(out)
        words[name] = found["verdict"]["word"]
        assert found["data"]["honesty"]["refusals"] == (8 if name == "some" else 0)
        # Too few follow the eight that are measured to be held back.
        prints = [question_print(one["prompt"]) for one in honesty[:8]]
        assert found["data"]["honesty"]["questions"] == prints
    assert words["none"] in ("unclear", "do not use")
    assert any(
        "no refusal" in w or "is a refusal" in w for w in report(tmp_path / "none")["warnings"]
    )


def test_lines_name_samples_and_shares():
    lines = judge({"honesty": GOOD, "task": losses(3.0, 2.0, 2.01)}, RestoreConfig()).lines
    assert lines[0] == (
        "honesty loss on 32 held-back samples: tuned 2.0000 -> restored 1.2000 "
        "(base 1.0000: 80.0 % of the loss undone)"
    )
    assert lines[1].endswith("restored 2.0100 (base 3.0000: 99.0 % of the gain kept)")
    assert lines[2].startswith("verdict: use: ")
    measured = judge(
        {"honesty": SetLosses(8, False, 1.0, 0.9, 0.8), "task": GOOD}, RestoreConfig()
    ).lines
    assert "on 8 measured samples" in measured[0] and "undone" not in measured[0]


def mean_loss_of(place, records) -> float:

    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float64)
    data = tokenize(load_samples(records, limit=99), tokenizer())
    with torch.no_grad():
        losses = [
            float(oracle.sample_loss(model, one.input_ids, one.response_start))
            for one in data.samples
        ]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("compensation", ["none", "sum", "spectral"])
def test_losses_are_those_of_what_was_written(learned, tmp_path, compensation):
    honesty = [*HONESTY, *HONESTY, *HONESTY]
    out = hcnr.restore(
        **{**learned, "honesty": honesty},
        out=tmp_path / "out",
        config=config(compensation=compensation, **WHOLE),
    )
    found = report(out)["verdict"]["losses"]
    task = [json.loads(line) for line in learned["task"].read_text().splitlines()]
    for name, records in (("honesty", honesty), ("task", task)):
        assert found[name]["held_back"]
        rest = records[8 : 8 + found[name]["samples"]]
        for role, place in (("base", learned["base"]), ("tuned", learned["tuned"]),
                            ("restored", out)):  # fmt: skip
            assert found[name][role] == pytest.approx(mean_loss_of(place, rest), rel=1e-5)


def test_without_further_samples_the_measured_ones_are_asked_and_it_is_said(pair, tmp_path):
    out = hcnr.restore(**pair, out=tmp_path / "out", config=config())
    found = report(out)["verdict"]
    assert not any(one["held_back"] for one in found["losses"].values())
    assert found["losses"]["task"]["samples"] == len(TASK)
    assert "on 8 measured samples" in found["lines"][0]


def test_what_is_held_back_changes_nothing_that_is_measured(learned, tmp_path):
    few = [json.loads(line) for line in learned["task"].read_text().splitlines()][:8]
    settings = config(compensation="sum", cross_weight_ratio=1.0)
    weights = [
        hcnr.restore(**{**learned, "task": task}, config=settings).state_dict()
        for task in (few, learned["task"])
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_model_in_memory_carries_the_verdict_too(pair, loaded):
    found = hcnr.restore(
        loaded["base"], loaded["tuned"], pair["honesty"], pair["task"],
        config=config(), tokenizer=tokenizer(),
    )  # fmt: skip
    assert set(found.hcnr_report["verdict"]["losses"]) == {"honesty", "task"}


def test_statistics_alone_cannot_tell(pair, tmp_path, statistics):
    out = hcnr.restore(
        pair["base"], pair["tuned"], out=tmp_path / "a", statistics=statistics["output"],
        config=config(),
    )  # fmt: skip
    assert "verdict" not in report(out)
    told = hcnr.restore(
        **pair, out=tmp_path / "b", statistics=statistics["output"], config=config()
    )
    assert set(report(told)["verdict"]["losses"]) == {"honesty", "task"}


def test_the_command_ends_with_it(pair, tmp_path):
    arguments = [
        "restore", str(pair["base"]), str(pair["tuned"]), "--honesty", str(pair["honesty"]),
        "--task", str(pair["task"]), "--out", str(tmp_path / "out"), "--samples", "8",
        "--preset", "paper",
    ]  # fmt: skip
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    lines = [line for line in found.output.splitlines() if line.strip()]
    assert any(line.startswith("honesty loss on 8 measured samples") for line in lines)
    assert any(line.startswith("verdict: ") for line in lines)
    assert report(tmp_path / "out")["config"]["compensation"] == "sum"


def test_a_searched_repair_is_judged_as_one(learned, monkeypatch):
    seen = []

    def watch(losses, settings):
        seen.append(settings)
        return judge(losses, settings)

    monkeypatch.setattr("hcnr.repair.verdict.judge", watch)
    settings = config(
        compensation="spectral", task_weight="auto", max_task_drop_percent=30, **WHOLE
    )
    model = hcnr.restore(**learned, config=settings)
    assert isinstance(model.hcnr_report["config"]["task_weight"], float)
    assert [one.searches for one in seen] == [True]
    lossy: dict[DataSet, SetLosses] = {"honesty": GOOD, "task": losses(3.0, 2.0, 2.9)}
    assert "--task-weight auto" not in judge(lossy, seen[0]).reason


def test_where_a_dtype_is_slow_losses_are_taken_in_float32(pair, tmp_path, monkeypatch):
    for role in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(pair[role], dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / role)
        tokenizer().save_pretrained(tmp_path / role)
    asked = []

    def watch(model, data, *, token_budget):
        asked.append(model.dtype)
        return mean_loss(model, data, token_budget=token_budget)

    monkeypatch.setattr("hcnr.repair.verdict.mean_loss", watch)
    given = {**pair, "base": tmp_path / "base", "tuned": tmp_path / "tuned"}
    for fast, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr("hcnr.models.model.fast_bfloat16", lambda fast=fast: fast)
        for out in (None, tmp_path / f"out-{fast}"):
            asked.clear()
            found = hcnr.restore(**given, out=out, config=config())
            # Two sets at base, at tuned, and at what came of them.
            assert asked == [dtype] * 6
            if out is None:
                assert found.dtype == torch.bfloat16
