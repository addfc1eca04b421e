import json

import pytest

from hcnr.data.samples import Message, load_samples
from hcnr.errors import DataError

SYSTEM, USER, ANSWER = Message("system", "s"), Message("user", "q"), Message("assistant", "r")
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
GPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}]


@pytest.mark.parametrize(
    ("record", "name", "prompt", "messages"),
    [
        ({"prompt": "q", "response": "r"}, "prompt and response", "q", None),
        ({"question": "q", "response": "r"}, "question and answers", "q", None),
        ({"prompt": "Q: q", "question": "q", "response": "r"}, "prompt and response", "Q: q", None),
        ({"prompt": "q", "completion": "r"}, "TRL (prompt and completion)", "q", None),
        (
            {"prompt": CHAT[:1], "completion": CHAT[1:]},
            "TRL (prompt and completion)",
            "q",
            (USER, ANSWER),
        ),
        ({"messages": CHAT}, "messages", "q", (USER, ANSWER)),
        ({"messages": CHAT, "prompt": "q", "response": "r"}, "messages", "q", (USER, ANSWER)),
        ({"messages": CHAT[:1], "response": "r"}, "messages", "q", (USER, ANSWER)),
        ({"messages": CHAT, "system": "s"}, "messages", "q", (SYSTEM, USER, ANSWER)),
        ({"prompt": "q", "response": "r", "system": "s"}, "prompt and response", "q",
         (SYSTEM, USER, ANSWER)),
        ({"instruction": "q", "input": "", "output": "r"}, "Alpaca", "q", None),
        ({"instruction": "q", "input": "i", "output": "r"}, "Alpaca", "q\ni", None),
        ({"instruction": "q", "output": "r", "system": "s"}, "Alpaca", "q",
         (SYSTEM, USER, ANSWER)),
        ({"instruction": "q", "output": "r", "history": [["a", "b"]]}, "Alpaca", "q",
         (Message("user", "a"), Message("assistant", "b"), USER, ANSWER)),
        ({"conversations": GPT}, "ShareGPT (conversations)", "q", (USER, ANSWER)),
        ({"conversations": CHAT}, "ShareGPT (conversations)", "q", (USER, ANSWER)),
        ({"conversations": GPT, "system": "s"}, "ShareGPT (conversations)", "q",
         (SYSTEM, USER, ANSWER)),
    ],
)  # fmt: skip
def test_every_format_is_recognised_and_named(tmp_path, record, name, prompt, messages):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(record) + "\n")
    for source in ([record], path):
        found = load_samples(source)
        (sample,) = found.samples
        assert (sample.prompt, sample.response, sample.messages) == (prompt, "r", messages)
        assert (found.format, found.description, found.filled) == (name, name, 0)


def test_formats_may_be_mixed_and_all_are_named():
    found = load_samples([{"conversations": GPT}, {"prompt": "q", "response": "r"}])
    assert found.format == "ShareGPT (conversations) and prompt and response"


def test_a_record_without_a_response_takes_its_answer_or_a_refusal():
    found = load_samples(
        [
            {"question": "q", "answers": ["r", "s"]},
            {"question": "q", "answer": "r"},
            {"question": "q", "answerable": False},
            {"prompt": "q", "response": "own", "answerable": False, "answers": {"text": []}},
        ]
    )
    refusal = found.samples[2].response
    assert [one.response for one in found.samples] == ["r", "r", refusal, "own"]
    assert "know" in refusal
    assert found.filled == 3
    assert "3 without a response: the first answer, or a refusal" in found.description


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"messages": CHAT, "conversations": GPT}, "both 'messages' and 'conversations'"),
        ({"instruction": "q", "prompt": "p", "output": "r"}, "both 'instruction' and 'prompt'"),
        ({"instruction": "q", "context": "c", "response": "r"}, "'context' beside 'instruction'"),
        ({"instruction": "q", "question": "p", "output": "r"}, "both 'instruction' and 'question'"),
        ({"question": "q", "choices": ["r", "s"], "answer": "r"}, "'choices' beside 'question'"),
        ({"prompt": "q", "response": "r", "completion": "s"}, "'response' and 'completion' differ"),
        ({"messages": CHAT, "response": "s"}, "last turn of 'messages' and 'response' differ"),
        ({"prompt": "q", "output": "r"}, r"no 'response' \(it has 'prompt', 'output'\)"),
        ({"prompt": "q", "chosen": "r", "rejected": "s"}, "no 'response'"),
        ({"prompt": CHAT[:1], "completion": CHAT}, "'completion' has 2 turns, expected one"),
        ({"prompt": CHAT[:1], "completion": 3}, r"'completion' is 3 \(int\), expected a list"),
        ({"conversations": [{"from": "observation", "value": "v"}, GPT[1]]},
         "turn 1 of 'conversations' is from 'observation', expected human, gpt or system"),
        ({"conversations": [{"from": "human"}, GPT[1]]}, "'conversations' has no 'value'"),
        ({"conversations": GPT[:1]}, "last turn of 'conversations' must be the assistant's"),
        ({"messages": [{"role": "system", "content": "a"}, *CHAT], "system": "b"},
         "'system' and the system turn differ"),
        ({"instruction": "q", "output": "r", "history": ["ab"]}, "entry 1 of 'history' is 'ab'"),
        ({"prompt": "q", "response": "r", "answerable": "yes"}, "'yes' as 'answerable'"),
        ({"question": "q", "answers": [3]}, r"'answers' is \[3\], expected a list of texts"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_or_bad_is_one_sentence(tmp_path, record, expected):
    path = tmp_path / "d.jsonl"
    path.write_text("\n" + json.dumps(record) + "\n")
    with pytest.raises(DataError, match=rf"d\.jsonl, line 2.*{expected}") as caught:
        load_samples(path)
    assert "\n" not in str(caught.value)
