"""A record of any format in the one form that all formats become."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hcnr.data.files import kind_of
from hcnr.errors import DataError


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Attributes:
        role: whose turn it is.
        content: what is said; empty where the turn only calls tools.
        more: other keys of the turn, such as `tool_calls`; for the chat template.
    """

    role: str
    content: str
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, Any]:
        """As chat templates take it."""
        return {"role": self.role, "content": self.content, **self.more}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said and no tool is called."""
        return not self.content.strip() and not self.more.get("tool_calls")


@dataclass(frozen=True)
class Item:
    """A record in the one form that all formats become.

    Attributes:
        location: where it was found, for messages.
        number: of its line or record.
        format: the name of its format.
        prompt: what the model is given; of a chat, its last user turn.
        turns: of a chat, all turns before the response; empty where the prompt is a plain text.
        reply: the turn that carries the loss; None where the record has none.
        tools: what the turns may call, for the chat template.
        question: the question without instructions.
        answerable: False where the honest response is a refusal; None where the record is silent.
        group: what other records it belongs together with.
        fields: the record itself, less what is null.
    """

    location: str
    number: int
    format: str
    prompt: str
    turns: tuple[Message, ...]
    reply: Message | None
    tools: tuple[Any, ...]
    question: str
    answerable: bool | None
    group: str | None
    fields: Mapping[str, Any] = field(repr=False)

    @property
    def response(self) -> str | None:
        """What the reply says; None where the record has none."""
        return None if self.reply is None else self.reply.content

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Accepted answers; raises DataError where they are no texts."""
        fields = self.fields
        if "answer" in fields and "answers" in fields:
            raise DataError(
                f"{self.location} has both 'answer' and 'answers', expected one of them; drop the "
                "other"
            )
        value = fields.get("answers", fields.get("answer", []))
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple | np.ndarray) or not all(
            isinstance(one, str) and one.strip() for one in value
        ):
            raise DataError(f"{self.location}: 'answers' is {value!r}, expected a list of texts")
        return tuple(checked_text(f"{self.location}: 'answers'", one) for one in value)

    def check_question(self) -> None:
        """Raise DataError unless it can be asked: a question is there, and needs no tools."""
        if not self.question.strip():
            raise DataError(f"{self.location}: the question is empty, expected text")
        if self.tools:
            raise DataError(
                f"{self.location} has 'tools', and questions are asked without; remove them"
            )

    @property
    def id(self) -> str:
        """Its own name, or its number; raises DataError where it is no text and no number."""
        value = self.fields.get("id", self.number)
        if type(value) is int:
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.location}: 'id' is {value!r}, expected text or a whole number")
        return checked_text(f"{self.location}: 'id'", value)


def checked_text(what: str, value: Any) -> str:
    """The value, which must be text that can be encoded; `what` names it in the DataError."""
    if not isinstance(value, str):
        raise DataError(f"{what} is {kind_of(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair; no tokenizer can read it.
        raise DataError(
            f"{what} holds a lone surrogate such as \\ud800, expected valid Unicode text"
        ) from None
    return value
