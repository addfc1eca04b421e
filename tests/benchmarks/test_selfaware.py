"""Repeated questions and null answers."""

from hcnr.benchmarks.selfaware import parse_selfaware


def test_first_of_repeated_questions_and_null_answers():
    found = parse_selfaware(
        [
            {"question_id": 3, "question": "A?", "answerable": True, "answer": ["x"]},
            {"question_id": 5, "question": "B?", "answerable": False, "answer": None},
            {"question_id": 7, "question": "a", "answerable": True, "answer": ["y"]},
        ]
    )
    assert [(q.id, q.answerable, q.answers) for q in found] == [
        ("3", True, ("x",)),
        ("5", False, ()),
    ]
    assert found[0].prompt == "Q:A?\nA:"
