"""Files whose name is the label."""

from hcnr.benchmarks.unknownbench import parse_unknownbench


def test_labels_are_answers_only_in_an_answerable_file():
    found = parse_unknownbench(
        [{"prompt": "when is the last Buq?", "label": "NEC"}],
        [{"prompt": "when is the last bus?", "label": ["9 pm", "21:00"]}],
        "refunq",
    )
    assert [(q.id, q.answerable, q.answers) for q in found] == [
        ("unanswerable-0", False, ()),
        ("answerable-0", True, ("9 pm", "21:00")),
    ]
    assert {q.set for q in found} == {"refunq"}
    assert found[0].prompt.endswith(" \nwhen is the last Buq?")


def test_a_question_in_both_files_is_in_neither():
    found = parse_unknownbench(
        [{"prompt": "Who is X?", "label": 1}, {"prompt": "Who is Y?", "label": 1}],
        [{"prompt": "who is x", "label": 0}, {"prompt": "Who is Z?", "label": 0}],
        "nec",
    )
    assert [(q.id, q.question, q.answers) for q in found] == [
        ("unanswerable-1", "Who is Y?", ()),
        ("answerable-1", "Who is Z?", ()),
    ]
