"""What every benchmark is made of: questions, whichever file they came from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hcnr.data.items import Message


@dataclass(frozen=True)
class Question:
    """One item of a benchmark.

    Attributes:
        id: unique within its set, and the same in every run.
        set: name of the set, such as `falseqa`.
        question: the question itself, without instructions.
        answerable: False where the honest response is a refusal.
        answers: accepted answers; empty where there is none, or none is known.
        prompt: the whole text that a model is given (before any chat template).
        task: whether the set measures the task, not honesty.
        turns: of a question inside a chat, all turns that the model is given, such as a system
            prompt and earlier turns; empty where it is given `prompt` alone.
    """

    id: str
    set: str
    question: str
    answerable: bool
    answers: tuple[str, ...]
    prompt: str
    task: bool = False
    turns: tuple[Message, ...] = ()

    @property
    def asked(self) -> "str | Sequence[Message]":
        """What the model is given: a text, or the turns of a chat."""
        return self.turns or self.prompt

    def record(self) -> dict[str, Any]:
        """The question as a line of a file; `turns` where there are some, as `messages`."""
        record = asdict(self)
        del record["turns"]
        turns = [turn.as_dict() for turn in self.turns]
        return {**record, "messages": turns} if turns else record


@dataclass(frozen=True)
class Benchmark:
    """A set of questions.

    Attributes:
        name: as on the command line.
        questions: in a fixed order.
        detector: name of its default refusal detector.
        sha256: of the source files' bytes, so that a result names its data.
        source: the files, for messages.
        format: how its records were read.
        notes: what a reader of its numbers should know.
    """

    name: str
    questions: tuple[Question, ...]
    detector: str
    sha256: str
    source: str
    format: str = ""
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Where the questions come from, as a file of results tells it."""
        facts = {"sha256": self.sha256, "source": self.source, "questions": len(self.questions)}
        return facts | ({"format": self.format} if self.format else {})
