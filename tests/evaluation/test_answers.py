"""Answers survive a kill at any byte, and nothing but the same run takes them up."""

import json

import pytest

from hcnr.benchmarks.questions import Question
from hcnr.errors import OutputError
from hcnr.evaluation.answers import open_answers, prompt_hash

FACTS = {"model": "m", "sha256": "abc", "max_new_tokens": 64}
QUESTION = Question("1", "falseqa", "Is it\u2028so?", False, ("yes", "\u00e9"), "prompt")
KEYS = [("falseqa", str(i), prompt_hash([i])) for i in range(3)]


def write(path):
    with open_answers(path, FACTS) as answers:
        for i, key in enumerate(KEYS):
            answers.add(key, QUESTION, f"said \u2028 {i}\n", task=False)


def test_written_and_read_again(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path)
    with open_answers(path, FACTS) as answers:
        assert answers.known == {key: f"said \u2028 {i}\n" for i, key in enumerate(KEYS)}
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[0]) == {"hcnr_answers": 1, **FACTS}
    assert json.loads(lines[1])["answers"] == ["yes", "\u00e9"]


def test_a_kill_anywhere_loses_at_most_the_answer_being_written(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path)
    content = path.read_bytes()
    edges = [i for i, byte in enumerate(content) if byte == ord("\n")]
    for size in [0, 1, *(edge + step for edge in edges for step in (-20, 0, 1))]:
        path.write_bytes(content[:size])
        whole = content[:size].count(b"\n")
        with open_answers(path, FACTS) as answers:
            assert list(answers.known) == KEYS[: max(0, whole - 1)]
            for i, key in enumerate(KEYS[max(0, whole - 1) :], max(0, whole - 1)):
                answers.add(key, QUESTION, f"said \u2028 {i}\n", task=False)
        assert path.read_bytes() == content


def test_each_answer_is_there_before_the_next(tmp_path):
    path = tmp_path / "answers.jsonl"
    with open_answers(path, FACTS) as answers:
        for i, key in enumerate(KEYS):
            answers.add(key, QUESTION, "x", task=True)
            assert path.read_bytes().count(b"\n") == i + 2


@pytest.mark.parametrize("name", list(FACTS))
def test_answers_of_another_run(tmp_path, name):
    path = tmp_path / "answers.jsonl"
    write(path)
    before = path.read_bytes()
    message = rf"answers\.jsonl holds answers with {name} .*; delete the file or use another --out"
    with (
        pytest.raises(OutputError, match=message),
        open_answers(path, {**FACTS, name: "other"}),
    ):
        pass
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ['{"a": 1}\n', "text\nmore", "[]\n", '{"hcnr_answers": 9}\n', "no line end", '{"hcnr_x'],
)
def test_another_file_is_left_alone(tmp_path, content):
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(OutputError, match="line 1 is not what"), open_answers(path, FACTS):
        pass
    assert path.read_text() == content


def test_a_broken_line_in_the_middle(tmp_path):
    path = tmp_path / "answers.jsonl"
    write(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], '{"set": 1}\n', *lines[2:]]))
    with pytest.raises(OutputError, match="line 3 is not what"), open_answers(path, FACTS):
        pass


@pytest.mark.parametrize("name", ["set", "id", "prompt_sha256", "response"])
def test_a_kept_answer_that_is_none(tmp_path, name):
    path = tmp_path / "answers.jsonl"
    write(path)
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps({**json.loads(last), name: None}), ""]))
    with pytest.raises(OutputError, match="line 4 is not what"), open_answers(path, FACTS):
        pass


def test_a_place_that_is_no_file(tmp_path):
    with pytest.raises(OutputError, match="cannot be opened"), open_answers(tmp_path, FACTS):
        pass


def test_two_runs_at_once(tmp_path):
    path = tmp_path / "answers.jsonl"
    with (
        open_answers(path, FACTS),
        pytest.raises(OutputError, match="another run is writing"),
        open_answers(path, FACTS),
    ):
        pass


def test_prompt_hash():
    assert prompt_hash([1, 2]) != prompt_hash([2, 1])
    assert prompt_hash([1, 2]) == prompt_hash((1, 2))
    assert len(prompt_hash([])) == 16
