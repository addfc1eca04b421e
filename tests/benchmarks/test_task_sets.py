"""The four tasks."""

import pytest

from hcnr.benchmarks.task_sets import parse_bioasq, parse_hotpotqa, parse_medmcqa, parse_nq
from hcnr.errors import DataError


def medical(identity, question="Which?", cop=1, kind="single", **changed):
    choices = {"opa": "one", "opb": "two", "opc": "three", "opd": "four"}
    return {
        "id": identity, "question": question, "cop": cop, "choice_type": kind, **choices, **changed
    }  # fmt: skip


def test_hotpotqa():
    (found,) = parse_hotpotqa([{"question": "Same?", "answer": "yes", "type": "comparison"}])
    assert (found.id, found.set, found.answers) == ("row-0", "hotpotqa", ("yes",))
    assert found.task and found.answerable


def test_nq_from_both_sources():
    (dev,) = parse_nq([{"question": "when", "answer": ["1972", "in 1972"]}], "dev")
    (pool,) = parse_nq([{"question": "who", "answers": ["A", "B"], "gold_answer": "A"}], "pool")
    assert (dev.id, dev.answers) == ("dev-0", ("1972", "in 1972"))
    assert (pool.id, pool.answers) == ("pool-0", ("A", "B"))


def test_medmcqa_counts_choices_from_one():
    first, last = parse_medmcqa([medical("a", cop=1), medical("b", "What?", cop=4)])
    assert (first.answers, last.answers) == (("one",), ("four",))
    assert last.question == "What?"
    assert last.prompt.endswith("\n- one\n- two\n- three\n- four")


@pytest.mark.parametrize("cop", [0, 5, None, "1"])
def test_medmcqa_refuses_another_numbering(cop):
    with pytest.raises(DataError, match="question a has cop"):
        parse_medmcqa([medical("a", cop=cop)])


def test_medmcqa_takes_single_choices_once():
    found = parse_medmcqa(
        [
            medical("a"),
            medical("b", "Which of them?", kind="multi", cop=0),
            medical("c", "WHICH?"),
            medical("d", opd="five"),
        ]
    )
    assert [q.id for q in found] == ["a", "d"]


def test_bioasq_types_and_editions():
    def record(identity, kind, answer, file):
        exact = {} if answer is None else {"exact_answer": answer}
        return {"id": identity, "body": "Is it?", "type": kind, "source_file": file, **exact}

    found = parse_bioasq(
        [
            record("a", "yesno", "Yes", "7B1_golden.json"),
            record("b", "factoid", [["PD-1", "CD279"], ["PD1"]], "11B4_golden.json"),
            record("c", "list", [["x"], ["y"]], "8B1_golden.json"),
            record("d", "summary", None, "8B1_golden.json"),
        ]
    )
    assert [(q.id, q.answers, edition) for q, edition in found] == [
        ("a", ("yes",), "7B"),
        ("b", ("PD-1", "CD279", "PD1"), "11B"),
    ]
