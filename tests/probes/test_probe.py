import json
import math

import numpy as np
import pytest
import torch
import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from families import VOCABULARY
from hcnr.commands.probe import probe as command
from hcnr.errors import CheckpointError, ConfigError, HcnrError, ModelError
from hcnr.probes.linear import Interval, assign_folds, block_scores, interval
from hcnr.probes.probe import probe
from hcnr.probes.report import BlockProbes, ProbeReport
from hcnr.stats import bootstrap_counts
from pairs import config, tokenizer, write_jsonl


def questions(count=40, *, planted=False):
    """Random words; with `planted`, the last word says whether the question is answerable."""
    generator = np.random.default_rng(0)
    records = []
    for i in range(count):
        words = [f"w{word}" for word in generator.integers(VOCABULARY - 3, size=3 + i % 4)]
        if planted:
            words[-1] = "w9" if i % 2 else "w5"
        records.append({"prompt": " ".join(words), "response": "w1", "answerable": bool(i % 2)})
    return records


def run(pair, records, **more):
    settings = config(samples=len(records), token_budget=32)
    return probe(pair["base"], pair["tuned"], records, config=settings, resamples=200, **more)


def test_every_number_is_that_of_the_right_model(pair):
    """The whole pipeline against single prompts run through transformers itself."""
    records = questions(24)
    report = run(pair, records, folds=3, split_seed=4)
    states = {}
    for role in ("base", "tuned"):
        model = AutoModelForCausalLM.from_pretrained(pair[role])
        with torch.no_grad():
            rows = [
                model(
                    input_ids=torch.tensor([tokenizer()(one["prompt"])["input_ids"]]),
                    output_hidden_states=True,
                ).hidden_states[1][0, -1]
                for one in records
            ]
        states[role] = torch.stack(rows).numpy()
    positive = np.array([not one["answerable"] for one in records])
    held_out = assign_folds(positive, np.arange(24), folds=3, seed=4)
    found = block_scores(states["base"], states["tuned"], positive, held_out)
    counts = bootstrap_counts(positive, draws=200, seed=4)
    first = report.blocks[0]
    for name in ("base", "transfer", "tuned"):
        expected = interval(getattr(found, name), positive, counts)
        assert getattr(first, name) == pytest.approx(expected, abs=1e-9), name
    assert first.cosine == pytest.approx(found.cosine, abs=1e-4)
    assert [block.block for block in report.blocks] == [0, 1]
    assert len({first.base, first.transfer, first.tuned}) > 1


def test_a_boundary_that_survived_is_found_and_reported(pair):
    heard = []

    class Watcher:
        def begin(self, stage):
            heard.append(stage)

        def advance(self, done, total):
            assert 0 < done <= total

    report = run(pair, questions(planted=True), require=0.8, watcher=Watcher())
    assert report.verdict == "holds"
    assert report.met
    assert heard == [
        "check the checkpoints", "read the data", "hidden states of base",
        "hidden states of tuned", "train the probes",
    ]  # fmt: skip
    shown = json.loads(report.to_json())
    assert shown["sentence"].startswith("The preservation assumption holds")
    assert shown["blocks"][0]["transfer"].keys() == {"auroc", "low", "high"}
    assert (shown["data"]["samples"], shown["data"]["groups"]) == (40, 40)
    assert shown["pair"]["fingerprints"].keys() == {"base", "tuned"}
    assert shown["settings"]["folds"] == 5
    assert "scikit-learn" in shown["versions"]


def test_words_that_say_nothing_are_not_a_boundary(pair):
    report = run(pair, questions())
    assert report.verdict == "undecided"
    assert all(block.transfer.low < 0.5 < block.transfer.high for block in report.blocks)


def test_the_same_run_gives_the_same_report(pair):
    records = questions(24)
    first, again = (run(pair, records, folds=3) for _ in range(2))
    assert first.blocks == again.blocks
    assert run(pair, records, folds=3, split_seed=1).blocks != first.blocks
    held = {role: AutoModelForCausalLM.from_pretrained(pair[role]) for role in ("base", "tuned")}
    assert run(held, records, folds=3, tokenizer=tokenizer()).blocks == first.blocks


def test_broken_weights_are_named(pair):
    held = {role: AutoModelForCausalLM.from_pretrained(pair[role]) for role in ("base", "tuned")}
    held["tuned"].model.layers[1].mlp.down_proj.weight.data[3, 2] = torch.nan
    with pytest.raises(ModelError, match="hidden states of tuned hold NaN or infinity"):
        run(held, questions(), tokenizer=tokenizer())


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"folds": 1}, ConfigError, "folds is 1, expected a whole number, at least 2"),
        ({"split_seed": -1}, ConfigError, "split_seed is -1"),
        (
            {"require": 80},
            ConfigError,
            "require is 80, expected a finite number, at least 0",
        ),
        ({"require": math.nan}, ConfigError, "require is nan"),
        ({"tokenizer": "nowhere"}, HcnrError, "no tokenizer can be loaded from 'nowhere'"),
        ({"detector": "none"}, HcnrError, "the detector 'none' is unknown"),
    ],
)
def test_bad_arguments_are_refused(pair, arguments, error, says):
    records = questions()
    if "detector" in arguments:
        records = [{**one, "answerable": None} for one in records]
    with pytest.raises(error, match=says):
        run(pair, records, **arguments)


def test_a_model_is_not_probed_against_itself(pair):
    with pytest.raises(CheckpointError, match="same weights"):
        probe(pair["base"], pair["base"], questions(), config=config())


def report(*blocks, required=None):
    """A report whose blocks have these lower bounds for base, transfer and tuned."""
    made = [
        BlockProbes(i, *(Interval(low + 0.05, low, low + 0.1) for low in lows), cosine=0.5)
        for i, lows in enumerate(blocks)
    ]
    return ProbeReport(blocks=tuple(made), required=required)


@pytest.mark.parametrize(
    ("blocks", "verdict", "says"),
    [
        ([(0.8, 0.5, 0.7), (0.7, 0.6, 0.7)], "holds", "AUROC 0.65 (0.60 to 0.70) on tuned at "
         "block 1 (on base itself at best 0.85)"),
        ([(0.8, 0.59, 0.5)], "fails", "reach at best AUROC 0.64 (0.59 to 0.69) on tuned at "
         "block 0, against 0.85 on base itself; a restoration"),
        ([(0.8, 0.4, 0.5), (0.4, 0.4, 0.7)], "fails", "apart in another direction (its own "
         "probes: 0.75 (0.70 to 0.80))"),
        ([(0.59, 0.5, 0.9)], "undecided", "(at best AUROC 0.64); give more"),
    ],
)  # fmt: skip
def test_the_verdict_follows_its_rule(blocks, verdict, says):
    found = report(*blocks)
    assert found.verdict == verdict
    assert says in found.sentence
    assert found.as_dict()["verdict"] == verdict


def test_the_best_transfer_is_what_is_required():
    blocks = [(0.9, 0.6, 0.9), (0.5, 0.7, 0.5)]
    assert report(*blocks).met
    assert report(*blocks, required=0.75).met
    assert not report(*blocks, required=0.76).met
    assert report(*blocks).best.block == 1
    assert report((0.5, 0.7, 0.5), (0.9, 0.7, 0.9)).best.block == 0


@pytest.fixture
def call():
    app = typer.Typer()
    app.command()(command)

    def run_command(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})

    return run_command


def test_the_command_prints_writes_and_exits_by_what_is_required(pair, tmp_path, call):
    honesty = write_jsonl(tmp_path / "h.jsonl", questions())
    arguments = [pair["base"], pair["tuned"], "--honesty", honesty, "--token-budget", "64"]
    out = tmp_path / "new" / "place" / "probe.json"
    shown = call(*arguments, "--out", out, "--require", "1.0", "--folds", "4")
    assert shown.exit_code == 1
    assert "not met" in shown.stdout
    written = json.loads(out.read_text())
    assert (written["met"], written["settings"]["folds"]) == (False, 4)
    for block in written["blocks"]:
        for name in ("base", "transfer", "tuned"):
            assert f"{block[name]['auroc']:.2f} ({block[name]['low']:.2f}" in shown.stdout
    assert " ".join(written["sentence"].split()) in " ".join(shown.stdout.split())
    assert "20 unanswerable and 20 answerable samples, labelled by the field" in shown.stdout
    assert "resample samples, not probes" in written["notes"][-1]
    assert "The best of 2 blocks is an optimistic choice" in written["notes"][-1]
    assert written["notes"][-1] in " ".join(shown.stdout.split())
    again = call(*arguments, "--out", out)
    assert "already exists" in str(again.exception)
    assert call(*arguments, "--out", out, "--overwrite", "--require", "0").exit_code == 0
    assert json.loads(out.read_text())["met"] is True


def test_the_command_never_replaces_an_input(pair, tmp_path, call):
    honesty = write_jsonl(tmp_path / "h.jsonl", questions())
    before = honesty.read_bytes()
    for out in (honesty, pair["tuned"] / "probe.json"):
        shown = call(pair["base"], pair["tuned"], "--honesty", honesty, "--out", out, "--overwrite")
        assert "input" in str(shown.exception)
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "probe.json"
    shown = call(pair["base"], pair["tuned"], "--honesty", honesty, "--out", out)
    assert "is no directory" in str(shown.exception)
    assert honesty.read_bytes() == before
    assert not (pair["tuned"] / "probe.json").exists()


def test_nothing_is_written_when_probing_fails(pair, tmp_path, call):
    honesty = write_jsonl(tmp_path / "h.jsonl", questions(8))
    shown = call(
        pair["base"], pair["tuned"], "--honesty", honesty, "--out", tmp_path / "probe.json"
    )
    assert "expected at least 10" in str(shown.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]
