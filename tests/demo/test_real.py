"""The demo on a pretrained model, here on a tiny one that knows nothing."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

from experiments.kuq_questions import choose_questions
from hcnr.benchmarks.sources import SourceReader
from hcnr.cli import app
from hcnr.data.overlap import QuestionIndex
from hcnr.data.starter import kuq_rows
from hcnr.demo.real import demo, pair
from hcnr.demo.real.pair import open_real_pair, read_questions, samples_of
from hcnr.demo.training import draw_model
from hcnr.errors import ConfigError, ModelError
from hcnr.report.gather import gather

LIMIT = 40


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a tokenizer of the questions' bytes and commonest pairs."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    raw.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    raw.train_from_iterator(
        (one.question for many in read_questions(LIMIT).values() for one in many),
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    place = tmp_path_factory.mktemp("pretrained")
    draw_model(config, 0).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCNR_CACHE", str(tmp_path_factory.getbasetemp() / "real-cache"))


def test_no_question_that_is_asked_is_trained_on():
    parts = read_questions()
    counts = {
        name: [sum(one.answerable is kind for one in many) for kind in (False, True)]
        for name, many in parts.items()
    }
    assert counts == {"test": [150, 150], "task": [0, 120], "base": [400, 800], "tuned": [0, 800]}
    asked = QuestionIndex(one.question for name in ("test", "task") for one in parts[name])
    for name in ("base", "tuned"):
        assert not [one.question for one in parts[name] if asked.near(one.question)]
    everything = [one.question for many in parts.values() for one in many]
    assert len(set(everything)) == len(everything)


def test_samples_teach_answers_and_refusals():
    questions = read_questions(2)["base"]
    taught = samples_of(questions)
    for question, sample in zip(questions, taught, strict=True):
        assert sample.prompt == question.question
        assert question.answerable == (sample.response in question.answers)


def test_what_is_measured_of_the_task_was_not_tuned_on(pretrained, monkeypatch):
    taught = {}

    def train(place, name, start, samples, *rest):
        taught[name] = {sample.prompt for sample in samples}
        (place / name).mkdir()
        (place / "training.json").write_text("{}")

    monkeypatch.setattr(pair, "train_checkpoint", train)
    found = open_real_pair(pretrained, limit=LIMIT + 4)
    lines = (found.directory / "task.jsonl").read_text(encoding="utf-8").splitlines()
    measured = [json.loads(line)["prompt"] for line in lines]
    assert len(measured) == 11 and len(taught["tuned"]) == 33
    assert taught["tuned"].isdisjoint(measured)


ROOT = os.environ.get("HCNR_DATA_ROOT")


@pytest.mark.skipif(not ROOT, reason="needs the authors' files: set HCNR_DATA_ROOT")
def test_the_shipped_questions_are_those_that_are_chosen():
    assert list(kuq_rows()) == choose_questions(SourceReader(ROOT))


def test_it_trains_repairs_asks_and_reports_and_trains_only_once(pretrained, tmp_path, monkeypatch):
    console = Console(file=io.StringIO(), width=120)
    rows = demo.run_real_demo(tmp_path / "out", model=pretrained, console=console, limit=LIMIT)
    names = [row.name.split(" ")[0] for row in rows]
    assert names[:2] == ["base", "tuned"] and {"sum", "restored"} <= set(names)
    assert rows[0].retention == pytest.approx(0) and rows[1].retention == pytest.approx(100)
    restored = tmp_path / "out" / "restored"
    assert {"report.html", "hcnr_report.json", "model.safetensors"} <= {
        path.name for path in restored.iterdir()
    }
    assert (restored.with_name("restored-eval") / "judged.jsonl").is_file()
    assert not list(restored.rglob("*.jsonl")), "answers are no part of what is uploaded"
    report = json.loads((restored / "hcnr_report.json").read_text())
    assert report["config"]["compensation"] == "spectral"
    assert report["verdict"]["losses"]["task"]["held_back"]
    told = json.loads((tmp_path / "out" / "demo.json").read_text())
    said, decision = told["recommendation"], gather(restored).decision
    assert decision is not None and decision.word == said["word"]
    kept = {tuple(one.said) for one in gather(restored).judged}
    assert {names[:3] for names in kept} == {("restored", "tuned", "base")}
    assert isinstance(console.file, io.StringIO)
    text = " ".join(console.file.getvalue().split())
    assert f"recommendation for {restored}: {said['word']}: {said['reason']}" in text
    assert [row["name"] for row in told["rows"]] == [row.name for row in rows]
    assert "| restored (default) |" in (tmp_path / "out" / "demo.md").read_text().replace("*", "")
    monkeypatch.setattr(pair, "train", None)
    made = open_real_pair(pretrained, limit=LIMIT)
    assert {path.name for path in made.directory.iterdir()} >= {
        "base", "tuned", "honesty.jsonl", "task.jsonl", "questions.jsonl", "task-questions.jsonl"
    }  # fmt: skip


def test_bad_input_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(pair, "train", None)
    with pytest.raises(ModelError, match="neither a file, a folder, nor an installed package"):
        demo.run_real_demo(tmp_path / "out", model="no-such-package-of-anyone")
    for arguments, words in (
        (["--model", "x"], "without --real"),
        (["--real", "--quick"], "for the tiny worlds"),
        (["--real", "--seeds", "2"], "for the tiny worlds"),
    ):
        found = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "o"), *arguments])
        assert isinstance(found.exception, ConfigError) and words in str(found.exception)
