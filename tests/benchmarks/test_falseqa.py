"""False premises and their twins."""

import pytest

from hcnr.benchmarks.falseqa import consistent_pairs, parse_falseqa
from hcnr.errors import DataError


def row(question, label, answer="It is blue."):
    return {"question": question, "answer": answer, "label": label}


def test_row_i_pairs_with_row_i_plus_half():
    pairs = parse_falseqa([row("f0", "1"), row("f1", "1"), row("t0", "0"), row("t1", "0")], "test")
    assert [(p.false.question, p.true.question) for p in pairs] == [("f0", "t0"), ("f1", "t1")]
    assert [(p.false.id, p.true.id) for p in pairs][1] == ("test-1-false", "test-1-true")
    assert not pairs[0].false.answerable
    assert pairs[0].true.answerable
    assert pairs[0].true.answers == ("It is blue.",)
    assert pairs[0].true.prompt.endswith(" \nt0")


def test_rebuttals_of_the_test_split_are_python_lists():
    cell = """['It has none.', "It can't."]"""
    listed, plain = (
        parse_falseqa([row("f", "1", answer), row("t", "0")], "test")[0]
        for answer in (cell, "It has none.")
    )
    assert listed.rebuttals == ("It has none.", "It can't.")
    assert plain.rebuttals == ("It has none.",)
    assert listed.false.answers == ()


def test_other_order_is_refused():
    with pytest.raises(DataError, match="falseqa valid: expected a first half of label 1"):
        parse_falseqa([row("t", "0"), row("f", "1")], "valid")


def test_questions_with_both_labels_go_with_their_twins():
    false = [row("same", "1"), row("f1", "1"), row("f2", "1")]
    true = [row("Same!", "0"), row("t1", "0"), row("f1?", "0")]
    pairs = parse_falseqa([*false, *true], "test")
    assert consistent_pairs(pairs) == ()
    assert consistent_pairs(pairs[:2]) == pairs[1:2]
