"""A pair that has learned its task, with data in the forms that people have."""

import json

import pytest

from pairs import write_jsonl

UNKNOWN = [f"w{i} w{i + 11} w{i + 2}" for i in range(40)]
KNOWN = [f"w{i + 3} w{i} w{i + 9}" for i in range(40)]


def in_turn(start, stop):
    pairs = zip(UNKNOWN[start:stop], KNOWN[start:stop], strict=True)
    return [(text, known) for pair in pairs for known, text in enumerate(pair)]


@pytest.fixture(scope="session")
def given(learned, tmp_path_factory):
    """Arguments of a run: honesty as TRL messages, the task as TRL prompt and completion."""
    root = tmp_path_factory.mktemp("given")
    records = [json.loads(line) for line in learned["task"].read_text().splitlines()]
    honesty = [
        {"messages": [{"role": "user", "content": text},
                      {"role": "assistant", "content": f"w{5 + known}"}],
         "answerable": bool(known)}
        for text, known in in_turn(0, 16)
    ]  # fmt: skip

    def questions(name, start, stop):
        rows = [
            {"question": text, "answerable": bool(known), **({"answers": ["w6"]} if known else {})}
            for text, known in in_turn(start, stop)
        ]
        return write_jsonl(root / f"{name}.jsonl", rows)

    trl = [{"prompt": r["prompt"], "completion": r["response"]} for r in records]
    sharegpt = [
        {"conversations": [{"from": "human", "value": r["prompt"]},
                           {"from": "gpt", "value": r["response"]}]}
        for r in records
    ]  # fmt: skip
    return {
        "base": learned["base"],
        "tuned": learned["tuned"],
        "honesty": write_jsonl(root / "honesty.jsonl", honesty),
        "validation": questions("choosing", 20, 26),
        "questions": questions("judging", 30, 36),
        # The tuned model has learned 24 facts: each is there twice.
        "task": write_jsonl(root / "task.jsonl", trl + trl),
        "sharegpt": write_jsonl(root / "sharegpt.jsonl", sharegpt + sharegpt),
    }


@pytest.fixture(scope="session")
def values(given):
    """The recipe of `given`, as plain values."""
    names = ("honesty", "validation", "questions", "task")
    return {
        "models": {role: str(given[role]) for role in ("base", "tuned")},
        "data": {name: str(given[name]) for name in names},
        "settings": {
            "samples": 8,
            "max_task_drop_percent": 40.0,
            "max_accuracy_drop": 40.0,
            "max_new_tokens": 3,
            "limit": 8,
        },
    }
