"""Invented files that are enough for a text world, and a recipe that trains in a second."""

import itertools
from pathlib import Path

import pytest

import invented
from experiments.trial.text_recipe import TextRecipe
from hcnr.benchmarks.sources import SOURCES

TINY = TextRecipe(
    vocabulary=400,
    hidden=32,
    blocks=1,
    heads=2,
    mlp=48,
    task_questions=24,
    measured=8,
    validation=2,
    validation_task=3,
    evaluated=3,
    evaluated_task=4,
    base_epochs=1,
    tuned_epochs=2,
)


def corpus() -> invented.Corpus:
    """More questions of each set, so that every bucketed part has some."""
    files = invented.corpus()

    def ask(name: str, count: int) -> list[str]:
        return [invented.question(f"text {name}", i) for i in range(count)]

    for name, label in (("NEC", 0), ("RefuNQ", ["Red", "Crimson"])):
        for kind, value in (("answerable", label), ("unanswerable", 1)):
            files[f"unknownbench/{name}/{name}_{kind}.json"] = [
                {"prompt": text, "label": value} for text in ask(f"{name} {kind}", 60)
            ]
    files["selfaware/SelfAware.json"] = [
        {"question_id": i, "question": text, "answerable": bool(answer), "answer": answer}
        for i, (text, answer) in enumerate(
            zip(ask("selfaware", 120), itertools.cycle([["Red"], None]), strict=False)
        )
    ]
    files["falseqa/test.csv"] = [
        {"question": text, "answer": "Blue.", "label": label}
        for label in "10"
        for text in ask(f"falseqa {label}", 30)
    ]
    return files


def write_corpus(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write it below `root`, for as long as the patch lasts the known files."""
    for path, source in invented.write(root, corpus()).items():
        monkeypatch.setitem(SOURCES, path, source)
    return root
