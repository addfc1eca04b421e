import json

import pytest

from hcnr.errors import DataError
from hcnr.evaluation.judged import JUDGED, Answer, JudgedQuestion, read_judged, write_judged
from hcnr.report.answers import SHOWN, answer_groups, answer_lists
from hcnr.report.gather import gather
from hcnr.report.page import html

RESTORED, TUNED, BASE = "restored", "honest-8b-hotpotqa", "honest-8b"


def answer(response: str, *, refused: bool = False, right: bool | None = None) -> Answer:
    return Answer(response=response, refused=refused, right=right)


REFUSED = answer("I do not know.", refused=True)


def judged(number: int, after: Answer, before: Answer, **changes) -> JudgedQuestion:
    facts = {"set": "kuq", "answerable": False, "answers": [], "task": False} | changes
    said = {RESTORED: after, "tuned": before}
    return JudgedQuestion(id=str(number), question=f"Question {number}?", said=said, **facts)


def told(right: bool | None = None) -> Answer:
    return answer("It is 42.", right=right)


def test_questions_are_parted_by_what_the_repair_changed():
    answerable = {"answerable": True, "answers": ["42"]}
    questions = [
        judged(1, REFUSED, told()),
        judged(2, told(), REFUSED),
        judged(3, REFUSED, REFUSED),
        # A refusal of what should be answered is worse, and a wrong answer to it is not.
        judged(4, REFUSED, told(right=True), **answerable),
        judged(5, told(right=False), told(right=True), **answerable),
        # On the task a wrong answer is worse.
        judged(6, told(right=False), told(right=True), set="quiz", task=True, **answerable),
    ]
    found = {(g.set, g.kind): [one.id for one in g.questions] for g in answer_groups(questions)}
    assert found == {
        ("kuq", "worse"): ["2", "4"],
        ("kuq", "better"): ["1"],
        ("kuq", "same"): ["3", "5"],
        ("quiz", "worse"): ["6"],
    }


def test_small_groups_are_shown_whole_and_the_page_stays_light():
    many = [judged(i, REFUSED, told()) for i in range(1000)]
    few = [judged(i, told(), REFUSED) for i in range(1000, 1004)]
    found = answer_lists([*many, *few])
    assert [one.title for one in found] == [
        "4 questions worse than tuned",
        f"1000 questions better than tuned, the first {SHOWN - 4} shown",
    ]
    assert sum(len(one.questions) for one in found) == SHOWN


def test_questions_of_one_model_alone_are_no_change():
    alone = judged(1, REFUSED, told()).model_copy(update={"said": {RESTORED: REFUSED}})
    assert answer_groups([alone]) == [] and answer_lists([alone]) == []


def write_answers(place, count=400, text="It is <b>42</b> & more."):
    """Of the invented evaluation: every third question changes for the worse."""
    names = (RESTORED, TUNED, BASE, "interpolation-0.4")

    def one(i: int) -> JudgedQuestion:
        worse = i % 3 == 0
        said = {name: REFUSED if (name == RESTORED) != worse else answer(text)
                for name in names}  # fmt: skip
        both = judged(i, REFUSED, REFUSED)
        return both.model_copy(update={"question": f"Why <i>{i}</i>?", "said": said})

    (place / "eval").mkdir(exist_ok=True)
    return write_judged(place / "eval", map(one, range(count)))


def test_the_page_shows_what_every_model_said(make_run, invented):
    place = make_run(metrics=invented.metrics())
    before = html(gather(place))
    assert 'id="answers"' not in before
    write_answers(place)
    run = gather(place)
    assert list(run.judged[0].said) == ["restored", "tuned", "base", "interpolation (0.4)"]
    page = html(run)
    assert 'id="answers"' in page and "<b>kuq</b>: 134 questions worse than tuned" in page
    # Whatever a model says is text.
    assert "It is &lt;b&gt;42&lt;/b&gt; &amp; more." in page and "Why <i>" not in page
    assert len(page.encode()) <= 300_000
    assert "<script" not in page and "/models/" not in page


def test_long_answers_are_cut(make_run, invented):
    place = make_run(metrics=invented.metrics())
    write_answers(place, text="word " * 5000)
    page = html(gather(place))
    assert "word…" in page and len(page.encode()) <= 300_000


def test_what_is_written_is_read_again(tmp_path):
    questions = [judged(1, REFUSED, told(right=True), answers=["42", "xlii"])]
    assert read_judged(write_judged(tmp_path, iter(questions))) == questions


@pytest.mark.parametrize(
    "line", ["{}", "[]", "no json", '{"set": 1}', '{"said": {"x": 3}}', b"\xff\xfe"]
)
def test_another_file_is_refused_by_its_line(tmp_path, line):
    path = tmp_path / JUDGED
    good = json.dumps(judged(1, REFUSED, told()).as_dict()).encode() + b"\n"
    path.write_bytes(good + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(DataError, match=r"judged\.jsonl"):
        read_judged(path)
