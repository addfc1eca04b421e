"""Answers from elsewhere: the file is checked line by line, then scored."""

import json

import pytest

from hcnr.errors import ConfigError, DataError, OutputError
from hcnr.evaluation.responses import read_responses, score_responses

ROWS = [
    {"id": 1, "set": "a", "question": "q1", "answerable": False, "response": "I don't know"},
    {"id": 2, "set": "a", "question": "q2", "answerable": False, "response": "Blue"},
    {"id": 3, "set": "a", "question": "q3", "answerable": True, "response": "Paris.",
     "answers": ["Paris"]},
    {"id": 1, "set": "b", "question": "q4", "answerable": True, "response": "", "answers": "x"},
]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_is_scored_and_written(tmp_path):
    path = write(tmp_path / "system.jsonl", ROWS)
    metrics = score_responses(path, "unknownbench_keywords", tmp_path / "deep" / "eval")
    assert metrics == json.loads((tmp_path / "deep" / "eval" / "metrics.json").read_text())
    assert metrics["model"] == "system"
    found = metrics["sets"]["a"]
    assert [found[key] for key in ("n", "tp", "fp", "fn", "tn")] == [3, 1, 0, 1, 1]
    assert found["f1"] == pytest.approx(200 / 3)
    assert found["accuracy_answerable"] == found["exact_match_answerable"] == 100
    assert metrics["sets"]["b"]["empty"] == 1
    assert metrics["refuse_all"]["sets"]["a"]["f1"] == pytest.approx(80)
    assert any(note.startswith("b has no unanswerable") for note in metrics["notes"])
    assert metrics["versions"]["hcnr"]


def test_rows_are_as_good_as_a_file(tmp_path):
    path = write(tmp_path / "system.jsonl", ROWS)
    assert score_responses(ROWS)["sets"] == score_responses(path)["sets"]


def test_another_detector_comes_with_the_common_column():
    metrics = score_responses(ROWS, "template:Blue")
    assert metrics["sets"]["a"]["detector"] == "template:Blue"
    common = metrics["common"]["responses"]["sets"]["a"]
    assert common["detector"] == "unknownbench_keywords"
    assert common["tp"] == 1
    assert score_responses(ROWS)["common"] == {}


def test_two_systems_are_paired_by_id():
    other = [{**row, "response": "no"} for row in reversed(ROWS)]
    metrics = score_responses(ROWS, against=other)
    gap = metrics["differences"]["against"]["sets"]["a"]
    assert gap["recall"]["value"] == pytest.approx(50 - 100)
    assert gap["refusal_rate_answerable"]["value"] == pytest.approx(-100)
    assert metrics["models"]["against"]["sets"]["a"]["tp"] == 2


def test_compat_compares_refunqs_answers_with_their_case():
    row = {"set": "refunq", "question": "q", "answerable": True, "answers": ["Nile"]}
    rows = [{**row, "response": "the nile"}]
    assert score_responses(rows)["sets"]["refunq"]["accuracy_answerable"] == 100
    assert score_responses(rows, compat=True)["sets"]["refunq"]["accuracy_answerable"] == 0
    rows[0]["set"] = "nec"
    assert score_responses(rows, compat=True)["sets"]["nec"]["accuracy_answerable"] == 100


def test_compat_lets_selfaware_skip_what_is_empty():
    rows = [{"question": "q", "answerable": False, "response": text} for text in ("", "x")]
    plain = score_responses(rows, "selfaware_substring")["sets"]["responses"]
    compat = score_responses(rows, "selfaware_substring", compat=True)["sets"]["responses"]
    assert (plain["fn"], compat["fn"]) == (2, 1)
    assert (plain["skipped"], compat["skipped"]) == (0, 1)
    assert compat["empty"] == 1


def test_kept_answers_can_be_read_and_tasks_are_apart(tmp_path):
    head = {"hcnr_answers": 1, "model": "m"}
    rows = [{**ROWS[2], "task": True, "prompt_sha256": "0"}, ROWS[3]]
    metrics = score_responses(write(tmp_path / "answers-m.jsonl", [head, *rows]))
    assert metrics["tasks"]["a"]["accuracy"] == 100
    assert list(metrics["sets"]) == ["b"]


def test_of_kept_answers_to_one_question_the_last_counts(tmp_path):
    again = {**ROWS[0], "response": "the last one"}
    rows = [ROWS[0], ROWS[1], again]
    kept = write(tmp_path / "answers-m.jsonl", [{"hcnr_answers": 1}, *rows])
    (pairs,) = read_responses(kept).values()
    assert [text for _, text in pairs] == ["the last one", ROWS[1]["response"]]
    with pytest.raises(DataError, match="repeats the id"):
        read_responses(write(tmp_path / "others.jsonl", rows))


def test_a_set_of_selfawares_authors_is_judged_as_they_do():
    rows = [{**row, "set": "kuq"} for row in ROWS[:2]]
    found = score_responses(rows, encoder=lambda texts: [[1.0, 0.0] for _ in texts], resamples=0)
    assert found["sets"]["kuq"]["detector"].startswith("selfaware (")
    assert "pass a sentence encoder" in score_responses(rows, resamples=0)["notes"][0]


def test_without_ids_the_order_counts():
    rows = [{key: value for key, value in row.items() if key != "id"} for row in ROWS]
    assert [q.id for pairs in read_responses(rows).values() for q, _ in pairs] == list("1234")


def bad(change, drop=()):
    row = {key: value for key, value in {**ROWS[0], **change}.items() if key not in drop}
    return [ROWS[1], row]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (bad({"id": 2}), "line 2 repeats the id '2' of .*line 1 in the set 'a'"),
        (bad({"id": "2"}), "line 2 repeats the id '2'"),
        (bad({}, ["id"]), "line 2 has no 'id' while .*line 1 has one"),
        (bad({}, ["response"]), "line 2 has no 'response', expected text"),
        (bad({"response": None}), "line 2 has None as 'response'"),
        (bad({"answerable": 1}), "line 2 has 1 as 'answerable', expected true or false"),
        (bad({"question": 3}), "line 2 has 3 as 'question', expected text"),
        (bad({"answers": [1]}), r"line 2 has \[1\] as 'answers', expected a list of texts"),
        (bad({"id": 1.5}), "line 2 has 1.5 as 'id'"),
        (bad({"set": 1}), "line 2 has 1 as 'set'"),
        (bad({"set": "\ud800"}), "line 2 has half of a surrogate pair in the 'set'"),
        (bad({"task": "x"}), "line 2 has 'x' as 'task'"),
        (bad({"task": True}), "line 2: 'task' differs from the rest of the set 'a'"),
        ([ROWS[0], 7], "line 2 is 7, expected an object"),
        ([], "holds no responses"),
    ],
)
def test_a_bad_line_is_named(tmp_path, rows, message):
    path = write(tmp_path / "r.jsonl", rows)
    with pytest.raises(DataError, match=message):
        score_responses(path, out=tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        score_responses(tmp_path / "absent.jsonl")
    path = tmp_path / "r.jsonl"
    path.write_bytes(json.dumps(ROWS[0]).encode() + b"\n\n{broken\n")
    with pytest.raises(DataError, match=r"r\.jsonl, line 3 is not valid JSON"):
        score_responses(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="line 1 is not valid JSON"):
        score_responses(path)
    with pytest.raises(DataError, match="a dict, expected a path or a list"):
        score_responses(ROWS[0])  # pyright: ignore[reportArgumentType]


def test_systems_that_did_not_answer_the_same():
    with pytest.raises(DataError, match="against lacks the question '1' of the set 'b'"):
        score_responses(ROWS, against=ROWS[:3])
    with pytest.raises(DataError, match="against has the question '1' of the set 'b'"):
        score_responses(ROWS[:3], against=ROWS)
    changed = [{**ROWS[0], "answerable": True}, *ROWS[1:]]
    with pytest.raises(DataError, match="the question '1' of the set 'a' differs"):
        score_responses(ROWS, against=changed)


def test_bad_settings(tmp_path):
    with pytest.raises(ConfigError, match="did you mean gair_idk"):
        score_responses(ROWS, "gair_idkk")
    with pytest.raises(ConfigError, match="resamples is -1"):
        score_responses(ROWS, resamples=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        score_responses(ROWS, out=tmp_path / "file")
