import builtins
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hcnr.errors import DataError
from hcnr.examples import Message, Sample, TokenizedSample, load_samples, tokenize

BOS, EOS, START, END = range(4)
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PERMUTED = ["q4", "q7", "q3", "q8", "q2", "q9", "q1", "q5", "q6", "q0"]
RECORDS = [{"prompt": f"q{i}", "response": f"r{i}"} for i in range(10)]


def make_tokenizer(
    *,
    bos: str | None = "<s>",
    eos: str | None = "</s>",
    frame: str | None = "<s> $A",
    template: str | None = None,
    merges: Sequence[tuple[str, str]] = (),
    normalizer: normalizers.Normalizer | None = None,
) -> PreTrainedTokenizerFast:
    """A real byte-level tokenizer: one id per byte, plus special tokens and merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIALS, *alphabet, *("".join(pair) for pair in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.add_special_tokens(SPECIALS)
    if frame:
        inner.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


PLAIN = make_tokenizer()
CHAT = make_tokenizer(template=CHATML)


def ids_of(text: str) -> list[int]:
    return PLAIN(text, add_special_tokens=False)["input_ids"]


def one(prompt, response, tokenizer=PLAIN, max_length=1024, **options) -> TokenizedSample:
    found = tokenize([Sample(prompt, response)], tokenizer, max_length=max_length, **options)
    return found.samples[0]


def chat(*turns, **options):
    return Sample("", turns[-1][1], tuple(Message(*turn) for turn in turns), **options)


def split(sample: TokenizedSample) -> tuple[list[int], list[int]]:
    ids = list(sample.input_ids)
    return ids[: sample.response_start], ids[sample.response_start :]


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
    assert found.places[2] == f"{path}, line 3"
    assert len(load_samples(str(path))) == 10


def test_default_limit_is_the_papers():
    assert len(load_samples(RECORDS * 20)) == 128


def test_jsonl_forgives_blank_lines_bom_crlf_and_no_final_newline(tmp_path):
    body = '\r\n{"prompt":"a","response":"b"}\r\n  \r\n{"prompt":"c","response":"d"}'
    found = load_samples(write(tmp_path, b"\xef\xbb\xbf" + body.encode()))
    assert [s.prompt for s in found.samples] == ["a", "c"]
    assert [place.rsplit(" ", 1)[1] for place in found.places] == ["2", "4"]


def test_a_unicode_line_separator_in_a_string_ends_no_line(tmp_path):
    found = load_samples(write(tmp_path, '{"prompt":"a\u2028b\x85c","response":"é\u2029"}\n'))
    assert pairs(found) == [{"prompt": "a\u2028b\x85c", "response": "é\u2029"}]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_json_list(tmp_path, indent, bom):
    path = write(tmp_path, bom + json.dumps(RECORDS, indent=indent).encode(), "d.json")
    found = load_samples(path)
    assert pairs(found) == RECORDS
    assert found.places[1] == f"{path}, record 2"


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
    assert found.places[1] == f"{path}, record 2"


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
    assert found[0].places[0] == "the given list, record 1"


def test_chat_records():
    turns = [
        {"role": "system", "content": "s", "name": "ignored"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "r"},
    ]
    (sample,) = load_samples([{"messages": turns, "prompt": "ignored", "id": 3}]).samples
    assert sample.messages == tuple(Message(t["role"], t["content"]) for t in turns)
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
    assert found.places[0] == f"the given list, record {int(PERMUTED[0][1:]) + 1}"
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
        ({"question": "q", "response": "r"}, r"no 'prompt' \(it has 'question', 'response'\)"),
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
        ("d.csv", "prompt,response\n", "unknown extension '.csv', expected .jsonl"),
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
    pq.write_table(pa.table({"question": ["q"]}), path)
    with pytest.raises(DataError, match=r"record 1 has no 'prompt' \(it has 'question'\)"):
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


LINES = st.one_of(
    st.binary(max_size=30),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prompt", "response", "messages", "role", "content"]), inner
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(deadline=None)
@given(st.lists(LINES, max_size=4), st.sampled_from([".jsonl", ".json", ".parquet"]))
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


# Tokenising without a chat template


def test_plain_tokens():
    prompt, response = split(one("ab", "cd"))
    assert prompt == [BOS, *ids_of("ab")]
    assert response == [*ids_of("cd"), EOS]


def test_prompt_and_response_are_tokenised_apart():
    merging = make_tokenizer(merges=[("b", "c")])
    assert len(merging("abcd", add_special_tokens=False)["input_ids"]) == 3
    prompt, response = split(one("ab", "cd", merging))
    assert (prompt, response) == ([BOS, *ids_of("ab")], [*ids_of("cd"), EOS])


@pytest.mark.parametrize("prompt", ["ab", "ab</s>", ""])
def test_an_appended_eos_is_dropped_but_not_the_prompts_own(prompt):
    closing = make_tokenizer(frame="<s> $A </s>")
    assert split(one(prompt, "c", closing))[0] == [BOS, *ids_of(prompt)]
    assert split(one(prompt, "c"))[0] == [BOS, *ids_of(prompt)]


def test_bos_that_is_also_eos_is_kept():
    shared = make_tokenizer(bos="</s>", frame="</s> $A")
    assert split(one("ab", "c", shared))[0] == [EOS, *ids_of("ab")]
    assert split(one("", "c", shared))[0] == [EOS]
    both = make_tokenizer(bos="</s>", frame="</s> $A </s>")
    assert split(one("ab", "c", both))[0] == [EOS, *ids_of("ab")]


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({}, BOS),
        ({"frame": None}, BOS),
        ({"frame": None, "bos": None}, EOS),
        ({"frame": "$A </s>"}, BOS),
        ({"frame": "$A </s>", "bos": None}, EOS),
    ],
)
def test_empty_prompt_gets_one_token_to_predict_from(options, start):
    prompt, response = split(one("", "ab", make_tokenizer(**options)))
    assert (prompt, response) == ([start], [*ids_of("ab"), EOS])


def test_no_bos_is_invented_for_a_prompt():
    assert split(one("ab", "c", make_tokenizer(frame=None)))[0] == ids_of("ab")


def test_tokenizer_without_eos():
    bare = make_tokenizer(eos=None)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        one("a", "b", bare)
    bare.chat_template = CHATML
    assert one("a", "b", bare).response_start > 1


def test_response_without_tokens_is_refused():
    erasing = make_tokenizer(normalizer=normalizers.Replace("x", ""))
    found = load_samples([RECORDS[0], {"prompt": "q", "response": "xx"}])
    with pytest.raises(DataError, match="the given list, record 2: the tokenizer finds no tokens"):
        tokenize(found, erasing)


def test_stored_padding_and_truncation_settings_do_not_leak():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert one("abcdef", "ghijkl", tokenizer) == one("abcdef", "ghijkl")


def test_no_warning_for_long_samples(caplog):
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 4
    one("abcdef", "ghijkl", tokenizer)
    assert not caplog.records


def test_single_turn_chat_works_without_a_template():
    sample = chat(("user", "ab"), ("assistant", "cd"))
    assert tokenize([sample], PLAIN).samples[0] == one("ab", "cd")


@pytest.mark.parametrize(
    "turns",
    [
        [("system", "s"), ("user", "q"), ("assistant", "r")],
        [("user", "q"), ("assistant", "r"), ("user", "q"), ("assistant", "r")],
        [("system", "s"), ("assistant", "r")],
    ],
)
def test_longer_chat_needs_a_template(turns):
    found = load_samples([RECORDS[0], chat(*turns)])
    with pytest.raises(DataError, match=r"record 2: a chat with the turns .* needs a chat templ"):
        tokenize(found, PLAIN)
    with pytest.raises(DataError, match="needs a chat template"):
        tokenize(found, CHAT, chat_template="never")
    assert len(tokenize(found, CHAT)) == 2


# Tokenising with one


def test_chat_tokens_of_a_plain_sample():
    prompt, response = split(one("ab", "cd", CHAT))
    assert prompt == ids_of("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n")
    assert response == ids_of("cd<|im_end|>\n")
    assert (prompt[0], response[-2]) == (START, END)


def test_loss_is_on_the_last_assistant_turn_only():
    turns = [("system", "s"), ("user", "q"), ("assistant", "r"), ("user", "q2")]
    prompt, response = split(tokenize([chat(*turns, ("assistant", "r2"))], CHAT).samples[0])
    rendered = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert prompt == ids_of(rendered + "<|im_start|>assistant\n")
    assert response == ids_of("r2<|im_end|>\n")


def test_never_ignores_the_template():
    assert one("ab", "cd", CHAT, chat_template="never") == one("ab", "cd")
    assert tokenize([Sample("a", "b")], CHAT).counts.chat_template is True
    never = tokenize([Sample("a", "b")], CHAT, chat_template="never")
    assert never.counts.chat_template is False
    assert tokenize([Sample("a", "b")], PLAIN).counts.chat_template is False


def test_generation_prompt_that_opens_more_than_the_turn_has():
    thinking = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    prompt, response = split(one("ab", "cd", make_tokenizer(template=thinking)))
    assert prompt == ids_of("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n")
    assert response == ids_of("cd<|im_end|>\n")


def test_token_that_spans_generation_prompt_and_response_carries_loss():
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    merging = make_tokenizer(template=template, merges=[(":", "c")])
    prompt, response = split(one("ab", "cd", merging))
    assert prompt == ids_of("user:ab\nassistant")
    assert merging.decode(response) == ":cd\n"


@pytest.mark.parametrize("place", ["{% for m", "{{ m.content"])
def test_template_that_rewrites_earlier_turns_is_refused(place):
    counting = CHATML.replace(place, "{{ messages | length }}" + place)
    found = load_samples(RECORDS[:1])
    with pytest.raises(DataError, match="record 1: the chat template renders the earlier turns"):
        tokenize(found, make_tokenizer(template=counting))


def test_template_that_drops_the_response_is_refused():
    dropping = CHATML.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}").replace(
        "in messages", "in messages if m.role == 'user'"
    )
    with pytest.raises(DataError, match="where the response begins is unknown"):
        one("ab", "cd", make_tokenizer(template=dropping))


def test_template_without_anything_before_the_response_is_refused():
    lone = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="where the response begins is unknown"):
        one("ab", "cd", make_tokenizer(template=lone))


def test_template_that_refuses_a_sample_is_explained():
    picky = "{{ raise_exception('System role not supported') }}"
    found = load_samples(RECORDS[:1])
    with pytest.raises(DataError, match=r"record 1: .* refuses this sample \(System role not sup"):
        tokenize(found, make_tokenizer(template=picky))
    with pytest.raises(DataError, match="refuses this sample"):
        one("a", "b", make_tokenizer(template="{% for %}"))


# Too long


def test_long_prompt_loses_its_left():
    full = one("abcdefgh", "xy")
    cut = one("abcdefgh", "xy", max_length=6)
    assert split(cut) == (ids_of("fgh"), [*ids_of("xy"), EOS])
    assert cut.input_ids == full.input_ids[-6:]
    counts = tokenize([Sample("abcdefgh", "xy")], PLAIN, max_length=6).counts
    assert (counts.prompts_truncated, counts.responses_truncated) == (1, 0)


def test_long_response_is_cut_right_and_keeps_one_prompt_token():
    cut = one("abc", "uvwxyz", max_length=4)
    assert split(cut) == (ids_of("c"), ids_of("uvw"))
    counts = tokenize([Sample("abc", "uvwxyz")], PLAIN, max_length=4).counts
    assert (counts.prompts_truncated, counts.responses_truncated) == (1, 1)


def test_response_that_leaves_exactly_one_prompt_token_is_whole():
    assert split(one("abc", "xy", max_length=4)) == (ids_of("c"), [*ids_of("xy"), EOS])
    # BOS is the whole prompt: nothing of it is lost.
    counts = tokenize([Sample("", "xyz")], PLAIN, max_length=4).counts
    assert (counts.prompts_truncated, counts.responses_truncated) == (0, 1)


def test_nothing_is_lost_at_the_exact_length():
    counts = tokenize([Sample("abc", "xy")], PLAIN, max_length=7).counts
    assert (counts.tokens, counts.prompts_truncated, counts.responses_truncated) == (7, 0, 0)
    assert tokenize([Sample("abc", "xy")], PLAIN, max_length=6).counts.prompts_truncated == 1


def test_max_length_needs_room_for_two_tokens():
    with pytest.raises(DataError, match="max_length is 1, expected at least 2"):
        one("a", "b", max_length=1)


@settings(deadline=None)
@given(
    st.text(max_size=20),
    st.text(min_size=1, max_size=20).filter(str.strip),
    st.integers(2, 40),
    st.sampled_from([PLAIN, CHAT, make_tokenizer(frame="<s> $A </s>"), make_tokenizer(frame=None)]),
)
def test_truncation_invariants(prompt, response, max_length, tokenizer):
    whole = one(prompt, response, tokenizer, max_length=10_000)
    found = tokenize([Sample(prompt, response)], tokenizer, max_length=max_length)
    cut = found.samples[0]
    before, after = split(whole)
    kept_before, kept_after = split(cut)
    assert len(cut) == min(len(whole), max_length)
    assert kept_before and kept_before == before[-len(kept_before) :]
    assert kept_after and kept_after == after[: len(kept_after)]
    if len(after) < max_length:
        assert kept_after == after
    else:
        assert len(kept_before) == 1
    assert found.counts.prompts_truncated == (kept_before != before)
    assert found.counts.responses_truncated == (kept_after != after)
    assert found.counts.tokens == len(cut)
    assert found.counts.response_tokens == len(kept_after)


def test_counts_and_lengths_add_up():
    found = tokenize(load_samples(RECORDS, limit=3), PLAIN)
    assert found.counts.samples == len(found) == 3
    assert found.lengths == [len(s.input_ids) for s in found.samples] == [6, 6, 6]
    assert (found.counts.tokens, found.counts.response_tokens) == (18, 9)


def test_sha256_covers_ids_and_boundaries():
    def sha(*samples, **options):
        return tokenize([Sample(*s) for s in samples], PLAIN, **options).sha256

    assert sha(("ab", "c")) == sha(("ab", "c"), max_length=99)
    # The same ids in all: where the response begins and where a sample ends matter.
    assert len({sha(("ab", "c")), sha(("a", "bc")), sha(("ab", "c"), max_length=4)}) == 3
    assert sha(("a", "b"), ("c", "d")) != sha(("c", "d"), ("a", "b"))
    expected = np.array([5, 3, BOS, *ids_of("ab"), *ids_of("c"), EOS], "<i8").tobytes()
    assert sha(("ab", "c")) == hashlib.sha256(expected).hexdigest()


def test_import_needs_no_transformers():
    code = "import sys, hcnr.examples; print('transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
