"""The formats that data comes in: records of any of them -> one form; docs/data.md lists them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hcnr.data.files import Located, kind_of
from hcnr.data.items import Item, Message, checked_text
from hcnr.errors import DataError

__all__ = ["Item", "Message", "parse_record"]

PLAIN, QUESTIONS = "prompt and response", "question and answers"
TRL = "TRL (prompt and completion)"
ALPACA, MESSAGES, SHAREGPT = "Alpaca", "messages", "ShareGPT (conversations)"

_PROMPTS = ("messages", "conversations", "instruction", "prompt", "question")
_RESPONSES = ("response", "completion", "output")
# What belongs to a question in many data sets and is in none of the formats.
_PARTS = ("context", "choices", "options")
# Names that people give to the two sides and to the system prompt.
_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant",
    "assistant": "assistant", "model": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip


def parse_record(located: Located) -> Item:
    """Recognise the format of a record and turn it into an `Item`.

    Raises:
        DataError: it is of no known format, of two that disagree, or a field is not what it must
            be; one sentence names the location, the field, what was found and what was expected.
    """
    location, number, record = located
    if not isinstance(record, Mapping):
        raise DataError(
            f"{location} is {kind_of(record)}, expected an object with 'prompt' and 'response', or "
            "with 'messages'"
        )
    # Null counts as absent: parquet files with several kinds of records are full of it.
    fields = {key: value for key, value in record.items() if value is not None}
    name = _prompt_field(location, fields)
    if name in ("messages", "conversations") or isinstance(fields[name], list | tuple | np.ndarray):
        turns, reply = _turns(location, name, fields[name])
    else:
        turns, reply = _plain(location, name, fields), None
    reply, kind = _reply(location, name, fields, reply)
    turns = _with_system(location, fields, turns)
    prompts = [turn.content for turn in turns if turn.role == "user"]
    prompt = prompts[-1] if prompts else ""
    question = fields.get("question")
    return Item(
        location=location,
        number=number,
        format=kind,
        prompt=prompt,
        turns=() if _is_plain(name, fields, turns) else turns,
        reply=reply,
        tools=tuple(_list(location, "tools", fields.get("tools", []))),
        question=prompt if question is None else checked_text(f"{location}: 'question'", question),
        answerable=_answerable(location, fields),
        group=None if fields.get("group") is None else str(fields["group"]),
        fields=fields,
    )


def _prompt_field(location: str, fields: Mapping[str, Any]) -> str:
    """Name of the field that is asked."""
    present = [name for name in _PROMPTS if name in fields]
    if not present:
        keys = ", ".join(repr(key) for key in list(fields)[:8]) or "no keys"
        raise DataError(
            f"{location} has no 'prompt' (it has {keys}), expected 'prompt' and 'response', "
            "'messages', or another format of docs/data.md"
        )
    # A prompt repeats what messages hold, and a question is what a prompt wraps.
    rivals = [name for name in present if name not in ("prompt", "question")]
    if "instruction" in present:
        rivals += [name for name in ("prompt", "question") if name in present]
    if len(rivals) > 1:
        raise DataError(
            f"{location} has both '{rivals[0]}' and '{rivals[1]}', expected one of them: which is "
            "asked cannot be told; drop the other"
        )
    lost = next((name for name in _PARTS if fields.get(name)), None)
    if lost is not None and present[0] in ("instruction", "question"):
        raise DataError(
            f"{location} has '{lost}' beside '{present[0]}', which would not be asked; expected "
            "the whole text in 'prompt' (or Alpaca's 'input'); move it there or drop it"
        )
    return present[0]


def _plain(location: str, name: str, fields: Mapping[str, Any]) -> tuple[Message, ...]:
    """The user's turn, and those before it in LLaMA-Factory's form of Alpaca."""
    text = checked_text(f"{location}: '{name}'", fields[name])
    turns = []
    if name == "instruction":
        if (more := checked_text(f"{location}: 'input'", fields.get("input", ""))).strip():
            text = f"{text}\n{more}"
        for i, pair in enumerate(_list(location, "history", fields.get("history", [])), 1):
            if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
                raise DataError(
                    f"{location}: entry {i} of 'history' is {kind_of(pair)}, expected a pair of "
                    "texts"
                )
            texts = [checked_text(f"{location}: entry {i} of 'history'", one) for one in pair]
            turns += [Message("user", texts[0]), Message("assistant", texts[1])]
    return (*turns, Message("user", text))


def _is_plain(name: str, fields: Mapping[str, Any], turns: Sequence[Message]) -> bool:
    """Whether the record gives one text to complete, not a chat."""
    return len(turns) == 1 and isinstance(fields[name], str)


def _turns(location: str, name: str, value: Any) -> tuple[tuple[Message, ...], Message | None]:
    """The turns that are asked, and the assistant's that follows them, if one does."""
    turns = []
    for i, turn in enumerate(_list(location, name, value), 1):
        if isinstance(turn, Message):
            turn = turn.as_dict()
        keys = ("from", "value") if name == "conversations" else ("role", "content")
        if not isinstance(turn, Mapping):
            raise DataError(
                f"{location}: turn {i} of '{name}' is {kind_of(turn)}, expected an object with "
                f"'{keys[0]}' and '{keys[1]}'"
            )
        if turn.get(keys[0]) is None and turn.get("role") is not None:
            keys = ("role", "content")
        # Null counts as absent, here too.
        more = {str(k): v for k, v in turn.items() if k not in keys and v is not None}
        if more.get("tool_calls") and turn.get(keys[1]) is None:
            turn = {**turn, keys[1]: ""}
        for key in keys:
            if turn.get(key) is None:
                raise DataError(
                    f"{location}: turn {i} of '{name}' has no '{key}', expected '{keys[0]}' and "
                    f"'{keys[1]}'"
                )
        role, content = (
            checked_text(f"{location}: '{key}' of turn {i}", turn[key]) for key in keys
        )
        if keys[0] == "from":
            if role not in _ROLES:
                raise DataError(
                    f"{location}: turn {i} of '{name}' is from {role!r}, expected human, gpt or "
                    "system"
                )
            role = _ROLES[role]
        turns.append(Message(role, content, more))
    if not turns or turns[-1].role != "assistant":
        return tuple(turns), None
    if len(turns) == 1:
        raise DataError(
            f"{location}: '{name}' has only the assistant's turn, expected a turn before it"
        )
    return tuple(turns[:-1]), turns[-1]


def _reply(
    location: str, name: str, fields: Mapping[str, Any], last: Message | None
) -> tuple[Message | None, str]:
    """The reply and the format's name; `last` is what the turns themselves end with."""
    responses = {} if last is None else {f"the last turn of '{name}'": last}
    for key in _RESPONSES:
        if key not in fields or (key == "output" and name != "instruction"):
            continue
        value = fields[key]
        if key == "completion" and not isinstance(value, str):
            before, turn = _turns(location, key, [{"role": "user", "content": ""}, *_list(
                location, key, value)])  # fmt: skip
            if turn is None or len(before) != 1:
                raise DataError(
                    f"{location}: 'completion' has {len(value)} turns, expected one, the "
                    "assistant's"
                )
        else:
            turn = Message("assistant", checked_text(f"{location}: '{key}'", value))
        responses[f"'{key}'"] = turn
    if len({turn.content for turn in responses.values()}) > 1:
        first, second, *_ = responses
        raise DataError(
            f"{location}: {first} and {second} differ, expected one response; drop one of them"
        )
    response = next(iter(responses.values()), None)
    if response is not None and response.is_empty:
        raise DataError(
            f"{location} has an empty response, expected text; fill it or drop the record"
        )
    names = {"messages": MESSAGES, "conversations": SHAREGPT, "instruction": ALPACA}
    kind = names.get(name)
    if kind is None:
        asks = name == "question" or ("question" in fields and not responses)
        kind = TRL if "'completion'" in responses else QUESTIONS if asks else PLAIN
    return response, kind


def _with_system(
    location: str, fields: Mapping[str, Any], turns: tuple[Message, ...]
) -> tuple[Message, ...]:
    """The turns behind the record's own system prompt, if it has one."""
    system = checked_text(f"{location}: 'system'", fields.get("system", ""))
    if not system.strip() or not turns:
        return turns
    if turns[0].role == "system":
        if turns[0].content == system:
            return turns
        raise DataError(
            f"{location}: 'system' and the system turn differ, expected one; drop one of them"
        )
    return (Message("system", system), *turns)


def _answerable(location: str, fields: Mapping[str, Any]) -> bool | None:
    value = fields.get("answerable")
    if value is None:
        return None
    if not isinstance(value, bool | int | np.bool_) or value not in (0, 1):
        raise DataError(
            f"{location} has {value!r} as 'answerable', expected true or false; correct it"
        )
    return bool(value)


def _list(location: str, name: str, value: Any) -> Sequence[Any]:
    # A numpy array of turns is what pandas makes of a parquet list.
    if not isinstance(value, list | tuple | np.ndarray):
        raise DataError(f"{location}: '{name}' is {kind_of(value)}, expected a list of turns")
    return list(value)
