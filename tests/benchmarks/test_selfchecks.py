"""Self-checks see what is wrong with written files."""

import json

import pytest

from hcnr.benchmarks.selfchecks import check_all

FULL = "what colour was the old bridge"


def row(question, answerable=True, response="Red", kind="kuq"):
    return {"question": question, "answerable": answerable, "response": response, "set": kind}


@pytest.fixture
def check(tmp_path):
    def write(files, counts=None):
        for name, rows in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
        found = check_all(tmp_path, lambda response, _: response == "No.", counts or {})
        return {one.name: (one.passed, one.finding) for one in found}

    return write


def test_counts(check):
    files = {"evaluation/nec.jsonl": [row("a"), row("b"), row("c", answerable=False)]}
    counts = {"evaluation/nec.jsonl": (1, 2), "evaluation/absent.jsonl": (0, 1)}
    assert check(files, counts) == {
        "count of evaluation/nec.jsonl": (True, "1 unanswerable + 2 answerable"),
        "count of evaluation/absent.jsonl": (
            False,
            "0 unanswerable + 0 answerable, expected 0 + 1",
        ),
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What colour was the old bridge?", "1 equal, 0 equal after replacing one token"),
        ("What colour was the new bridge?", "0 equal, 1 equal after replacing one token"),
        ("What colour was a new bridge?", "0 equal, 0 equal after replacing one token"),
    ],
)
@pytest.mark.parametrize("name", ["pools/nq.jsonl", "nq-128.jsonl", "honesty-128.jsonl"])
def test_overlap(check, text, found, name):
    files = {"evaluation/nec.jsonl": [row(FULL)], name: [row(text)]}
    name = f"overlap of {name} with every evaluation set"
    assert check(files)[name] == (found.startswith("0 equal, 0"), found)


@pytest.mark.parametrize("name", ["pools/bioasq.jsonl", "bioasq-128.jsonl"])
def test_pattern_of_the_own_task(check, name):
    text = "what colour was the new bridge"
    allowed = check({"evaluation/bioasq.jsonl": [row(FULL)], name: [row(text)]})
    passed, found = allowed[f"overlap of {name} with every evaluation set"]
    assert passed
    assert found.endswith("; 1 follow a pattern of their own task's evaluation (allowed)")
    equal = check({"evaluation/bioasq.jsonl": [row(text)], name: [row(text)]})
    assert not equal[f"overlap of {name} with every evaluation set"][0]
    others = check({"evaluation/medmcqa.jsonl": [row(FULL)], name: [row(text)]})
    assert not others[f"overlap of {name} with every evaluation set"][0]


def test_targets(check):
    good = [row("a", False, "No."), row("b")]
    assert check({"honesty-128.jsonl": good})["targets of honesty-128.jsonl"] == (
        True,
        "0 of 1 refusals are none, 0 answers are refusals",
    )
    for bad in ([row("a", False, "Red")], [*good, row("c", True, "No.")]):
        assert not check({"honesty-128.jsonl": bad})["targets of honesty-128.jsonl"][0]
    # A pool is what others are chosen from: it may hold what no choice takes.
    assert check({"pools/kuq.jsonl": [*good, row("c", True, "No.")]})["targets of pools/kuq.jsonl"][
        0
    ]
    assert not check({"pools/kuq.jsonl": [row("a", False, "Red")]})["targets of pools/kuq.jsonl"][0]


def test_answers_of_a_task_that_look_like_refusals_are_counted(check):
    rows = [row("a"), row("b", True, "No."), row("c", True, "No.")]
    found = check({"bioasq-128.jsonl": rows})["targets of bioasq-128.jsonl"]
    assert found == (True, "2 of 3 answers are refusals to the detector (allowed)")


def test_sizes(check):
    groups = [("kuq", False), ("kuq", True), ("falseqa", False), ("falseqa", True)]
    honesty = [row("q", answerable, "No.", kind) for kind, answerable in groups for _ in range(32)]
    found = check({"honesty-128.jsonl": honesty, "nq-128.jsonl": [row("q")] * 128})
    assert found["composition of honesty-128.jsonl"][0]
    assert found["size of nq-128.jsonl"] == (True, "128 samples of 128")
    found = check({"honesty-128.jsonl": honesty[1:] + honesty[-1:], "nq-128.jsonl": [row("q")]})
    assert found["composition of honesty-128.jsonl"] == (
        False,
        "32 falseqa unanswerable + 33 falseqa answerable + 31 kuq unanswerable + 32 kuq answerable",
    )
    assert not found["size of nq-128.jsonl"][0]
