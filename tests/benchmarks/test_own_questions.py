"""A user's own questions, and those of the starter set."""

import hashlib
import json

import pytest

from hcnr.benchmarks.loading import load_sets
from hcnr.benchmarks.own_questions import load_questions
from hcnr.data.items import Message
from hcnr.errors import ConfigError, DataError


@pytest.fixture
def own(tmp_path):
    def make(*records):
        path = tmp_path / "own.jsonl"
        lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return make


def test_own_benchmark(own):
    path = own(
        {"question": "Who?", "answerable": True, "answers": ["A", "B"]},
        "",
        {"question": "When?", "answerable": False, "id": 7, "prompt": "P", "answers": None},
        {"question": "Why?", "answerable": False, "id": "x", "more": 1},
    )
    found = load_questions(path)
    assert (found.name, found.detector, found.source) == ("own", "unknownbench_keywords", str(path))
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    first, second, third = found.questions
    assert (first.id, first.set, first.answerable, first.answers) == ("1", "own", True, ("A", "B"))
    # As it is: no benchmark's instruction is added.
    assert (first.prompt, first.question, first.asked) == ("Who?", "Who?", "Who?")
    assert (found.format, found.notes) == ("question and answers", ())
    assert (second.id, second.prompt, second.answers) == ("7", "P", ())
    assert third.id == "x"
    assert load_questions(path, limit=2).questions == (first, second)


GOOD = {"question": "Who?", "answerable": True, "answers": ["A"]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        (r'{"question": "\ud800"}', "line 2: 'question' holds a lone surrogate"),
        ("[1]", r"line 2 is \[1\] \(list\), expected an object"),
        ({**GOOD, "question": None}, "line 2 has no 'prompt'"),
        ({**GOOD, "question": " "}, "line 2: the question is empty, expected text"),
        ({**GOOD, "answerable": 2}, "line 2 has 2 as 'answerable', expected true or false"),
        ({"question": "q"}, "line 2: 'answerable' is missing, expected true or false"),
        ({**GOOD, "answers": 3}, "line 2: 'answers' is 3, expected a list of texts"),
        ({**GOOD, "answer": "A"}, "line 2 has both 'answer' and 'answers'"),
        ({**GOOD, "answers": [""]}, r"line 2: 'answers' is \[''\], expected a list of texts"),
        ({**GOOD, "id": ["x"]}, r"line 2: 'id' is \['x'\], expected text"),
        ({**GOOD, "id": True}, "line 2: 'id' is True, expected text"),
        ({**GOOD, "prompt": 3}, r"line 2: 'prompt' is 3 \(int\), expected text"),
        ({**GOOD, "id": "1"}, "line 2 has the id '1' of an earlier line"),
    ],
)
def test_bad_records_are_named(own, record, message):
    path = own(GOOD, record)
    # Also where the limit would leave the record out.
    with pytest.raises(DataError, match=message):
        load_questions(path, limit=1)


def test_a_limit_that_leaves_one_kind_is_noted(own, tmp_path):
    kinds = [False, False, False, True]
    path = own(*({"question": f"q{i}", "answerable": can} for i, can in enumerate(kinds)))
    (note,) = load_questions(path, limit=3).notes
    assert note == (
        "own: the first 3 of its 4 questions are all unanswerable: let both kinds alternate in the "
        "file, or raise --limit."
    )
    assert load_questions(path).notes == load_questions(path, limit=4).notes == ()
    alike = own({"question": "q", "answerable": True}, {"question": "r", "answerable": True})
    assert load_questions(alike, limit=1).notes == ()


def test_bad_files(own, tmp_path):
    with pytest.raises(DataError, match="holds no questions"):
        load_questions(own(""))
    with pytest.raises(DataError, match="does not exist"):
        load_questions(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9")
    with pytest.raises(DataError, match="not valid UTF-8"):
        load_questions(tmp_path / "latin.jsonl")
    with pytest.raises(ConfigError, match="limit is 0"):
        load_questions(own(GOOD), limit=0)


@pytest.mark.parametrize(
    ("name", "detector"), [("kuq", "selfaware"), ("mine", "unknownbench_keywords")]
)
def test_a_file_named_as_a_published_set_has_its_detector(tmp_path, name, detector):
    path = tmp_path / f"{name}.jsonl"
    path.write_text('{"question": "Why?", "answerable": false}\n')
    assert load_questions(path).detector == detector


REFUSING = {"prompt": "Who wins in 2090?", "response": "I do not know."}
TELLING = {"prompt": "Where is Rome?", "response": "Italy"}


def test_a_file_to_restore_with_is_a_file_to_ask(own):
    found = load_questions(own(REFUSING, TELLING))
    assert [one.answerable for one in found.questions] == [False, True]
    assert [one.answers for one in found.questions] == [(), ("Italy",)]
    assert found.notes[0] == "own: read as prompt and response."
    assert "the 1 responses that refuse, by unknownbench_keywords" in found.notes[1]
    assert "the whole response of an answerable one is its accepted answer" in found.notes[2]
    task = load_questions(own(REFUSING, TELLING), task=True)
    assert [one.answerable for one in task.questions] == [True, True]
    labelled = [{**REFUSING, "answerable": False}, {**TELLING, "answerable": True}]
    labelled[1]["answers"] = ["Italy", "Italia"]
    found = load_questions(own(*labelled))
    assert [one.answers for one in found.questions] == [(), ("Italy", "Italia")]
    assert found.notes == ("own: read as prompt and response.",)


def test_a_label_in_some_records_only_is_no_label(own):
    path = own({**REFUSING, "answerable": False}, TELLING)
    with pytest.raises(DataError, match="line 2: 'answerable' is missing"):
        load_questions(path)


def test_turns_are_asked_and_the_response_is_not(own):
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Where is Rome?"},
        {"role": "assistant", "content": "Italy"},
    ]
    (one,) = load_questions(own({"messages": chat, "system": "Be brief."}), task=True).questions
    turns = [("system", "Be brief."), *((m["role"], m["content"]) for m in chat[:3])]
    assert one.asked == one.turns == tuple(Message(*turn) for turn in turns)
    assert (one.question, one.prompt, one.answers) == ("Where is Rome?",) * 2 + (("Italy",),)
    (again,) = load_questions([one.record()]).questions
    assert (again.asked, again.answers, again.id) == (one.asked, one.answers, one.id)


def test_records_and_other_files_are_sets_too(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text('question,answerable,answers\nWho?,no,\n"Where, then?",TRUE,"[""A"", ""B""]"\n')
    sets = load_sets(
        [str(path), [{"question": "Why?", "answerable": False}]], None, None, task=False
    )
    assert list(sets) == ["mine", "questions"]
    assert [one.answers for one in sets["mine"].questions] == [(), ("A", "B")]
    assert sets["questions"].sha256 != sets["mine"].sha256
