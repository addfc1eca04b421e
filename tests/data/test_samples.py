import builtins
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hcnr.data.files import read_file
from hcnr.data.samples import Message, Sample, load_samples
from hcnr.errors import DataError

PERMUTED = ["q4", "q7", "q3", "q8", "q2", "q9", "q1", "q5", "q6", "q0"]
RECORDS = [{"prompt": f"q{i}", "response": f"r{i}"} for i in range(10)]


def write(tmp_path, content, name="d.jsonl"):
    path = tmp_path / name
    if isinstance(content, list):
        content = "".join(json.dumps(record) + "\n" for record in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pairs(found):
    return [{"prompt": s.prompt, "response": s.response} for s in found.samples]


def test_jsonl_takes_the_first_samples(tmp_path):
    path = write(tmp_path, RECORDS)
    found = load_samples(path, limit=4)
    assert pairs(found) == RECORDS[:4]
    assert (found.available, len(found), found.source) == (10, 4, str(path))
    assert found.locations[2] == f"{path}, line 3"
    assert len(load_samples(str(path))) == 10


def test_default_limit_is_the_papers():
    assert len(load_samples(RECORDS * 20)) == 128


def test_jsonl_forgives_blank_lines_bom_crlf_and_no_final_newline(tmp_path):
    body = '\r\n{"prompt":"a","response":"b"}\r\n  \r\n{"prompt":"c","response":"d"}'
    found = load_samples(write(tmp_path, b"\xef\xbb\xbf" + body.encode()))
    assert [s.prompt for s in found.samples] == ["a", "c"]
    assert [place.rsplit(" ", 1)[1] for place in found.locations] == ["2", "4"]


def test_a_unicode_line_separator_in_a_string_ends_no_line(tmp_path):
    found = load_samples(write(tmp_path, '{"prompt":"a\u2028b\x85c","response":"é\u2029"}\n'))
    assert pairs(found) == [{"prompt": "a\u2028b\x85c", "response": "é\u2029"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_json_list(tmp_path, indent, bom):
    path = write(tmp_path, bom + json.dumps(RECORDS, indent=indent).encode(), "d.json")
    found = load_samples(path)
    assert pairs(found) == RECORDS
    assert found.locations[1] == f"{path}, record 2"


@pytest.mark.parametrize("count", [1, 2, 10])
def test_json_lines_in_disguise(tmp_path, count):
    assert pairs(load_samples(write(tmp_path, RECORDS[:count], "d.json"))) == RECORDS[:count]


def test_json_lines_in_disguise_name_their_bad_line(tmp_path):
    path = write(tmp_path, '{"prompt":"a","response":"b"}\n{"prompt":"a"\n', "d.json")
    with pytest.raises(DataError, match=r"d\.json, line 2 is not valid JSON"):
        load_samples(path)


def test_parquet(tmp_path):
    path = tmp_path / "d.PARQUET"
    pq.write_table(pa.Table.from_pylist([{**r, "extra": 1} for r in RECORDS]), path)
    found = load_samples(path, limit=2)
    assert pairs(found) == RECORDS[:2]
    assert found.locations[1] == f"{path}, record 2"


def test_parquet_chat_and_plain_rows_together(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    path = tmp_path / "d.parquet"
    rows = [
        {"messages": turns, "prompt": None, "response": None},
        {"messages": None, "prompt": "a", "response": "b"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    chatty, plain = load_samples(path).samples
    assert chatty.messages == (Message("user", "q"), Message("assistant", "r"))
    assert plain == Sample("a", "b")


def test_parquet_keeps_the_columns_that_probes_read(tmp_path):
    rows = [{**record, "answerable": i % 2 == 0, "group": i} for i, record in enumerate(RECORDS)]
    path = tmp_path / "d.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "extra": 1} for row in rows]), path)
    assert [found.record for found in read_file(path)] == rows


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    path = write(tmp_path, b"PAR1", "d.parquet")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DataError, match=r"pyarrow is not installed; run pip install 'hcnr\[par"):
        load_samples(path)


def test_python_records_samples_and_generators_agree():
    samples = [Sample(r["prompt"], r["response"]) for r in RECORDS]
    found = [load_samples(RECORDS), load_samples(samples), load_samples(r for r in RECORDS)]
    assert found[0] == found[1] == found[2]
    assert found[0].samples == tuple(samples)
    assert found[0].locations[0] == "the given list, record 1"


def test_chat_records():
    turns = [
        {"role": "system", "content": "s", "name": "kept", "weight": None},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
    ]
    (sample,) = load_samples([{"messages": turns, "prompt": "ignored", "id": 3}]).samples
    more = [{"name": "kept"}, {}, {}]
    assert sample.messages == tuple(
        Message(t["role"], t["content"], m) for t, m in zip(turns, more, strict=True)
    )
    assert (sample.prompt, sample.response) == ("q", "r")
    assert load_samples([sample]).samples == (sample,)


def test_a_list_of_turns_may_be_an_array():
    turns = np.array([{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}])
    assert load_samples([{"messages": turns}]).samples[0].response == "r"


def test_empty_prompt_and_extra_keys_are_fine():
    record = {"prompt": "", "response": " r ", "label": [1]}
    assert load_samples([record]).samples == (Sample("", " r "),)


def test_shuffle_is_a_fixed_permutation():
    found = load_samples(RECORDS, limit=10, shuffle_seed=7)
    # Pinned: the order must not change between platforms, Python versions or releases.
    assert [s.prompt for s in found.samples] == PERMUTED
    assert found.locations[0] == f"the given list, record {int(PERMUTED[0][1:]) + 1}"
    assert pairs(load_samples(RECORDS, limit=3, shuffle_seed=7)) == pairs(found)[:3]
    assert load_samples(RECORDS, shuffle_seed=8).samples != found.samples
    assert load_samples(RECORDS, shuffle_seed=0).samples != load_samples(RECORDS).samples


def test_sha256_is_of_the_canonical_json_of_the_samples_used():
    canonical = '[{"prompt":"q\\u00e9","response":"r"}]'
    expected = hashlib.sha256(canonical.encode()).hexdigest()
    record = {"response": "r", "extra": 1, "prompt": "qé"}
    assert load_samples([record]).sha256 == expected
    assert load_samples([record, RECORDS[0]], limit=1).sha256 == expected
    assert load_samples([record, RECORDS[0]]).sha256 != expected
    turns = '[{"messages":[{"content":"q","role":"user"},{"content":"r","role":"assistant"}]}]'
    chatty = load_samples([{"messages": [USER, ANSWER]}]).sha256
    assert chatty == hashlib.sha256(turns.encode()).hexdigest()
    hashes = {load_samples(r).sha256 for r in (RECORDS, RECORDS[::-1], RECORDS[:9])}
    assert len(hashes) == 3


# Refusing

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "r"}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ([], r"is \[\] \(list\), expected an object"),
        ("text", "'text' \\(str\\), expected an object"),
        (None, "is null, expected an object"),
        ({}, r"no 'prompt' \(it has no keys\)"),
        ({"text": "q", "response": "r"}, r"no 'prompt' \(it has 'text', 'response'\)"),
        ({"question": "q"}, r"no 'response' \(it has 'question'\)"),
        ({"prompt": "q"}, r"no 'response' \(it has 'prompt'\)"),
        ({"prompt": "q", "response": None}, "no 'response'"),
        ({"prompt": 3, "response": "r"}, r"'prompt' is 3 \(int\), expected text"),
        ({"prompt": "q", "response": ["r"]}, r"'response' is \['r'\] \(list\), expected text"),
        ({"prompt": "q", "response": ""}, "empty response"),
        ({"prompt": "q", "response": " \n\t"}, "empty response"),
        ({"prompt": "\ud800", "response": "r"}, "lone surrogate"),
        ({"prompt": "q", "response": "\udfff"}, "lone surrogate"),
        ({"messages": "q"}, r"'messages' is 'q' \(str\), expected a list of turns"),
        ({"messages": []}, "last turn of 'messages' must be the assistant's.*found no turns"),
        ({"messages": [USER]}, "found the role 'user'"),
        ({"messages": [USER, ANSWER, USER]}, "found the role 'user'"),
        ({"messages": [ANSWER]}, "only the assistant's turn"),
        ({"messages": [USER, "r"]}, r"turn 2 of 'messages' is 'r' \(str\)"),
        ({"messages": [USER, {"role": "assistant"}]}, "turn 2 of 'messages' has no 'content'"),
        ({"messages": [{"content": "q"}, ANSWER]}, "turn 1 of 'messages' has no 'role'"),
        ({"messages": [USER, {**ANSWER, "content": [1]}]}, r"'content' of turn 2 is \[1\] \(list"),
        ({"messages": [USER, {**ANSWER, "content": " "}]}, "empty response"),
        ({"messages": [USER, {**ANSWER, "content": "\ud800"}]}, "lone surrogate"),
    ],
)
def test_bad_record_names_its_place_and_fault(tmp_path, record, expected):
    good = [RECORDS[0]]
    with pytest.raises(DataError, match=f"the given list, record 2.*{expected}"):
        # The bad record lies beyond the limit: it is still found.
        load_samples([*good, record], limit=1)
    path = write(tmp_path, [*good, record])
    with pytest.raises(DataError, match=rf"d\.jsonl, line 2.*{expected}") as caught:
        load_samples(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    with pytest.raises(DataError, match=rf"d\.json, record 2.*{expected}"):
        load_samples(write(tmp_path, json.dumps([*good, record]), "d.json"))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.jsonl", "", "holds no samples"),
        ("d.jsonl", " \n\n", "holds no samples"),
        ("d.json", "", "holds no samples"),
        ("d.json", "[]", "holds no samples"),
        (
            "d.jsonl",
            '{"prompt":"a","response":"b"}\n{"prompt": oops}\n',
            r"line 2 is not valid JSON",
        ),
        ("d.jsonl", "[" * 100_000, "line 1 is not valid JSON \\(nested too deeply"),
        ("d.jsonl", "1" * 5000, "line 1 is not valid JSON \\(Exceeds the limit"),
        ("d.jsonl", json.dumps(RECORDS, indent=1), "line 1 is not valid JSON"),
        ("d.jsonl", json.dumps(RECORDS), "line 1 is .* expected an object"),
        ("d.json", '[{"prompt":"a",\n"response":}]', r"line 2 is not valid JSON .*at column 12"),
        ("d.json", "[" * 100_000, "is not valid JSON \\(nested too deeply"),
        ("d.json", '{"prompt":"a",\n"response":}', r"line 2 is not valid JSON .*at column 12"),
        ("d.json", "[]\n[]", r"line 1 is \[\] \(list\), expected an object"),
        ("d.json", "3", r"holds 3 \(int\), expected a list"),
        ("d.json", '{"data": []}', "record 1 has no 'prompt'"),
        ("d.jsonl", b'{"prompt":"a","response":"b"}\n\xff\n', "line 2 is not valid UTF-8"),
        ("d.json", '[{"prompt":"a"}]'.encode("utf-16"), "line 1 is not valid UTF-8"),
        ("d.parquet", b"PAR1 not really", "is not a readable parquet file"),
        ("d.parquet", b"", "is not a readable parquet file"),
        ("d.tsv", "prompt\tresponse\n", "unknown extension '.tsv', expected .jsonl"),
        ("d", "", "unknown extension '', expected .jsonl"),
    ],
)
def test_bad_file_is_one_sentence_that_names_it(tmp_path, name, content, expected):
    path = write(tmp_path, content, name)
    with pytest.raises(DataError, match=expected) as caught:
        load_samples(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_bad_parquet_rows(tmp_path):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["q"]}), path)
    with pytest.raises(DataError, match=r"record 1 has no 'prompt' \(it has 'text'\)"):
        load_samples(path)
    pq.write_table(pa.table({"prompt": ["q", "q"], "response": [1, 2]}), path)
    with pytest.raises(DataError, match="record 1: 'response' is 1"):
        load_samples(path)
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="holds no samples"):
        load_samples(path)


def test_bad_paths_and_sources(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl does not exist; check the path"):
        load_samples(tmp_path / "gone.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"folder\.jsonl is not a file"):
        load_samples(tmp_path / "folder.jsonl")
    with pytest.raises(DataError, match="come as a dict, expected a path or a list"):
        load_samples(RECORDS[0])  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="come as a int"):
        load_samples(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="the given list holds no samples"):
        load_samples([])
    with pytest.raises(DataError, match="is 0, expected at least 1"):
        load_samples(RECORDS, limit=0)


FIELDS = [
    "prompt", "response", "messages", "role", "content", "question", "answers", "answerable",
    "completion", "conversations", "from", "value", "instruction", "output", "history", "system",
]  # fmt: skip
LINES = st.one_of(
    st.binary(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=4), st.sampled_from([".jsonl", ".json", ".parquet", ".csv"]))
@example([b'{"prompt": "\\ud800", "response": "r"}'], ".jsonl")
def test_any_bytes_give_samples_or_one_sentence(tmp_path_factory, lines, suffix):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(b"\n".join(lines))
    try:
        found = load_samples(path)
    except DataError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert found.available and all(s.response.strip() for s in found.samples)


CALL = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]


class TestFurtherKeysOfAChat:
    def test_are_kept(self):
        turns = [
            {"role": "user", "content": "hi", "name": "ann", "weight": None},
            {"role": "assistant", "content": None, "tool_calls": CALL},
        ]
        (sample,) = load_samples([{"messages": turns, "tools": [{"name": "f"}]}]).samples
        assert sample.chat() == [
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": CALL},
        ]
        assert list(sample.tools) == [{"name": "f"}]
        assert load_samples([sample]).samples == (sample,)

    def test_change_the_hash(self):
        def sha256(**more):
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            return load_samples([{"messages": [turns[0], {**turns[1], **more}]}]).sha256

        assert len({sha256(), sha256(tool_calls=CALL), sha256(name="x")}) == 3
        assert sha256(name=None) == sha256()

    def test_tools_that_are_no_list(self):
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        with pytest.raises(DataError, match="'tools' is 3"):
            load_samples([{"messages": turns, "tools": 3}])


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    assert len(load_samples("~/data.jsonl")) == 1
