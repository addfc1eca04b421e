"""Repeated rows, contradictory labels, categories."""

from hcnr.benchmarks.kuq import parse_kuq


def row(question, unknown, category="ambiguous"):
    extra = {"category": category} if unknown else {}
    return {"question": question, "unknown": unknown, "answer": ["Because.", "Well."], **extra}


def test_duplicates_and_contradictions():
    found = parse_kuq(
        [row("A?", True), row("B?", False), row("a", True), row("C?", True), row("c", False)]
    )
    assert [(item.question.id, item.question.question) for item in found] == [
        ("row-0", "A?"),
        ("row-1", "B?"),
    ]


def test_only_knowns_have_answers_and_only_unknowns_a_category():
    unknown, known = parse_kuq([row("A?", True, "controversial"), row("B?", False)])
    assert (unknown.question.answerable, unknown.question.answers) == (False, ())
    assert unknown.category == "controversial"
    assert (known.question.answerable, known.question.answers) == (True, ("Because.", "Well."))
    assert known.category is None
    assert known.question.prompt == "### Question: B?\n### Answer: "
