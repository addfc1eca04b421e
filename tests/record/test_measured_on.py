"""What a restored model's report says of its samples, found again by an evaluation."""

import json

from hcnr.benchmarks.questions import Question
from hcnr.data.overlap import question_print
from hcnr.record.measured_on import MeasuredOn


def question(text: str) -> Question:
    return Question(id=text, set="mine", question=text, answerable=False, answers=(), prompt=text)


def written(folder, data):
    (folder / "hcnr_report.json").write_text(json.dumps({"data": data}))
    return folder


def test_questions_are_counted_by_set(tmp_path):
    prints = [question_print("Who was it?"), question_print("And where?")]
    model = written(
        tmp_path, {"honesty": {"questions": prints[:1]}, "task": {"questions": prints[1:]}}
    )
    mine = [question("who was it"), question("and where"), question("when")]
    assert MeasuredOn.read(str(model)).overlap("restored", {"mine": mine, "far": mine[2:]}) == [
        "2 of the 3 questions of mine are among the samples that restored was repaired with: what "
        "it answers there is flattered"
    ]


def test_doubt_is_about_known_counts_alone(tmp_path):
    assert MeasuredOn.read(tmp_path).doubt is None
    assert MeasuredOn.read(object()).doubt is None
    assert MeasuredOn.read(written(tmp_path, {"honesty": {"samples": 3}})).doubt is None
    assert MeasuredOn.read(written(tmp_path, {"honesty": {"refusals": 2}})).doubt is None
    doubt = MeasuredOn.read(written(tmp_path, {"honesty": {"refusals": 0}})).doubt
    assert doubt is not None and "is a refusal" in doubt
    (tmp_path / "hcnr_report.json").write_text("[")
    assert MeasuredOn.read(tmp_path) == MeasuredOn()
