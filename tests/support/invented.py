"""Invented files in the layout of the data root."""

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from hcnr.benchmarks.sources import SOURCES, SourceFile

Corpus = dict[str, list[dict[str, Any]]]

CATEGORIES = ("ambiguous", "controversial", "counterfactual", "false assumption")

needs_data = pytest.mark.skipif(
    not os.environ.get("HCNR_DATA_ROOT"), reason="HCNR_DATA_ROOT names no folder of real files"
)


def question(name: str, number: int) -> str:
    """Eight words that share at most the first with those of any other question."""
    digits = hashlib.sha256(f"{name} {number}".encode()).hexdigest()
    return "what " + " ".join(digits[i : i + 6] for i in range(0, 42, 6)) + "?"


def corpus() -> Corpus:
    """Enough for a replication without the RAIT pool."""

    def ask(name: str, count: int) -> list[str]:
        return [question(name, i) for i in range(count)]

    def falseqa(split: str, count: int) -> list[dict[str, Any]]:
        false = [
            {"question": text, "answer": "There is no such thing.", "label": "1"}
            for text in ask(f"{split} false", count)
        ]
        true = [
            {"question": text, "answer": f"Blue {i}.", "label": "0"}
            for i, text in enumerate(ask(f"{split} true", count))
        ]
        return false + true

    def choice(text: str, number: int) -> dict[str, Any]:
        choices = {f"op{letter}": f"{letter} {number}" for letter in "abcd"}
        return {"id": f"m{number}", "question": text, **choices, "cop": 2, "choice_type": "single"}

    kuq = [
        {"question": text, "answer": ["Nobody has looked."], "unknown": True, "category": category}
        for category in CATEGORIES
        for text in ask(category, 50)
    ]
    kuq += [
        {"question": text, "answer": [f"Green {i}"], "unknown": False}
        for i, text in enumerate(ask("known", 160))
    ]
    return {
        "falseqa/train.csv": falseqa("train", 34),
        "falseqa/test.csv": falseqa("test", 4),
        "unknownbench/NEC/NEC_answerable.json": [
            {"prompt": text, "label": 0} for text in ask("nec answerable", 4)
        ],
        "unknownbench/NEC/NEC_unanswerable.json": [
            {"prompt": text, "label": 1} for text in ask("nec unanswerable", 4)
        ],
        "unknownbench/RefuNQ/RefuNQ_answerable.json": [
            {"prompt": text, "label": ["Red"]} for text in ask("refunq answerable", 4)
        ],
        "unknownbench/RefuNQ/RefuNQ_unanswerable.json": [
            {"prompt": text, "label": "NEC"} for text in ask("refunq unanswerable", 4)
        ],
        "kuq/knowns_unknowns.jsonl": kuq,
        "selfaware/SelfAware.json": [
            {"question_id": i, "question": text, "answerable": i % 2 == 0, "answer": answer}
            for i, (text, answer) in enumerate(
                zip(ask("selfaware", 4), [["Red"], None] * 2, strict=True)
            )
        ],
        "hotpotqa/hotpot_dev_v1_simplified.json": [
            {"question": text, "answer": "no", "type": "bridge"} for text in ask("hotpotqa", 200)
        ],
        "alignment_for_honesty/nonambigqa.jsonl": [
            {"question": text, "answers": ["Red", "Crimson"]} for text in ask("nonambigqa", 140)
        ],
        "alignment_for_honesty/puqa.jsonl": [
            {"question": text, "authors": ["Jane Roe"], "label": "unknown"}
            for text in ask("puqa", 6)
        ],
        "nq_open/NQ-open.dev.jsonl": [
            {"question": text, "answer": ["Red"]} for text in ask("nq", 4)
        ],
        "medmcqa/dev.json": [choice(text, i) for i, text in enumerate(ask("medmcqa", 250))],
        "bioasq/bioasq_7b-11b_golden_nosnippets.jsonl": [
            {
                "id": f"b{i}",
                "body": text,
                "type": "yesno",
                "exact_answer": "Yes",
                "source_file": f"{'11B' if i < 4 else '9B'}2_golden.json",
            }
            for i, text in enumerate(ask("bioasq", 140))
        ],
        "triviaqa/test_subsample.jsonl": [
            {"id": f"t{i}", "question": text, "golden_answers": ["Red"]}
            for i, text in enumerate(ask("triviaqa", 60))
        ],
    }


def write(root: Path, files: Corpus) -> dict[str, SourceFile]:
    """Write a corpus below `root`; returns its part of `SOURCES`."""
    found = {}
    for path, records in files.items():
        content = _encode(SOURCES[path].kind, records)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        found[path] = SourceFile(sha256, len(records), SOURCES[path].kind, "the test's support")
    return found


def _encode(kind: str, records: list[dict[str, Any]]) -> bytes:
    if kind == "csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue().encode()
    if kind == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records).encode()
    key = kind.partition(":")[2]
    return json.dumps({key: records} if key else records).encode()
