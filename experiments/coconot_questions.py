"""Question files of CoCoNot (MIT), a category each: is there repaired what was never asked for?

    python -m experiments.coconot_questions DATA_ROOT/coconot QUESTIONS
    hcnr evaluate RESTORED --against TUNED --against BASE --benchmarks QUESTIONS/incomplete.jsonl

What should not be complied with is unanswerable, the contrast set's requests are answerable.
Categories without contrast are left out: a refusal delta needs both sides.
"""

import json
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a published file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def questions(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Records by category, in the formats of docs/data.md."""
    both = {False: read(folder / "coconot_eval.jsonl")}
    both[True] = read(folder / "coconot_contrast_eval.jsonl")
    by_category: dict[str, list[dict[str, Any]]] = {}
    for category in dict.fromkeys(one["category"] for one in both[True]):
        by_category[category.removeprefix("Requests with ").split()[0].lower()] = [
            {"id": one["id"], "question": one["prompt"], "answerable": answerable}
            for answerable, records in both.items()
            for one in records
            if one["category"] == category
        ]
    return by_category


if __name__ == "__main__":
    source, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for name, records in questions(source).items():
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in records)
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(records)} requests")
