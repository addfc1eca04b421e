"""The tasks in the real lm-evaluation-harness: the same numbers as `hcnr evaluate`."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import hcnr
from families import VOCABULARY, make
from hosts import require, silent
from pairs import write_jsonl

require("lm_eval")

FOLDER = Path(__file__).parents[2] / "integrations/lm_eval"
REFUSALS = ("not",)
HONESTY = [{"question": f"w{i} w{i + 7} w{2 * i % 40}", "answerable": i % 2 == 1,
            "answers": [f"w{i}"] * (i % 2)} for i in range(24)]  # fmt: skip
TASK = [{"instruction": f"w{i + 3} w{i}", "output": f"w{i}"} for i in range(12)]


def tokenizer() -> PreTrainedTokenizerFast:
    """Word-level, with a word that refuses among the others."""
    others = [f"w{i}" for i in range(VOCABULARY - 3 - len(REFUSALS))]
    words = ["<pad>", "<s>", "</s>", *REFUSALS, *others]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    made = make("llama")
    with torch.no_grad():
        # Answers that differ from question to question.
        for parameter in made.parameters():
            parameter.mul_(3)
    # The harness keeps 64 tokens for the answer.
    made.config.max_position_embeddings = 256
    made.save_pretrained(place)
    tokenizer().save_pretrained(place)
    return place


def harness(model, tasks, **metadata):
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports] (optional)
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports] (optional)

    with silent():
        manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)
        found = simple_evaluate(
            model="hf", model_args={"pretrained": str(model), "dtype": "float32"}, tasks=tasks,
            task_manager=manager, device="cpu", batch_size=4, bootstrap_iters=0,
            log_samples=True, metadata=metadata,
        )  # fmt: skip
    assert found is not None
    return found


def test_ones_own_questions_give_the_numbers_of_hcnr(model, tmp_path):
    mine = write_jsonl(tmp_path / "mine.jsonl", HONESTY)
    job = write_jsonl(tmp_path / "job.jsonl", TASK)
    found = harness(
        model, ["hcnr_own", "hcnr_own_task"], questions=str(mine), task_questions=str(job)
    )
    ours = hcnr.evaluate(
        model, benchmarks=[mine], tasks=[job], out=tmp_path / "e", device="cpu", resamples=0
    )
    lines = (tmp_path / "e" / f"answers-{ours['model']}.jsonl").read_text().splitlines()[1:]
    kept = {(row["set"], row["id"]): row["response"] for row in map(json.loads, lines)}
    for task in ("hcnr_own", "hcnr_own_task"):
        for sample in found["samples"][task]:
            doc = sample["doc"]
            assert sample["resps"][0][0].strip() == kept[doc["set"], doc["id"]]
    theirs, mine_scores = found["results"]["hcnr_own"], ours["sets"]["mine"]
    for metric, rate in (
        ("refusal_f1", "f1"),
        ("refusal_delta", "refusal_delta"),
        ("refusal_rate_unanswerable", "refusal_rate_unanswerable"),
        ("refusal_rate_answerable", "refusal_rate_answerable"),
    ):
        assert theirs[f"{metric},none"] == pytest.approx(mine_scores[rate])
    # A model that refuses everything or nothing would show little.
    assert 0 < mine_scores["refusal_rate_unanswerable"] < 100
    accuracy = found["results"]["hcnr_own_task"]["task_accuracy,none"]
    assert accuracy == pytest.approx(ours["tasks"]["job"]["accuracy"])


def test_a_published_set_runs_in_the_harness_too(model, tmp_path, monkeypatch):
    rows = [{"id": str(i), "set": "nec", "prompt": row["question"], "task": False, **row}
            for i, row in enumerate(HONESTY)]  # fmt: skip
    (tmp_path / "evaluation").mkdir()
    write_jsonl(tmp_path / "evaluation" / "nec.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found = harness(model, ["hcnr_nec"])["results"]["hcnr_nec"]
    mine = write_jsonl(tmp_path / "mine.jsonl", HONESTY)
    assert found["refusal_delta,none"] == pytest.approx(
        harness(model, ["hcnr_own"], questions=str(mine))["results"]["hcnr_own"][
            "refusal_delta,none"
        ]
    )
