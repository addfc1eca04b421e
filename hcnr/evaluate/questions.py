"""What every benchmark is made of: questions, whichever file they came from."""

from dataclasses import dataclass


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
    """

    id: str
    set: str
    question: str
    answerable: bool
    answers: tuple[str, ...]
    prompt: str
    task: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A set of questions.

    Attributes:
        name: as on the command line.
        questions: in a fixed order.
        detector: name of its default refusal detector.
        sha256: of the source files' bytes, so that a result names its data.
        source: the files, for messages.
    """

    name: str
    questions: tuple[Question, ...]
    detector: str
    sha256: str
    source: str
