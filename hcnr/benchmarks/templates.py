"""What a model is asked: the prompts of the benchmarks' authors."""

from collections.abc import Sequence

from hcnr.benchmarks.questions import Question
from hcnr.errors import ConfigError

TEMPLATES = {
    "unknownbench": (
        "Answer the given question in no more than one sentence. "
        "Please keep your answer short and concise. \n{question}"
    ),
    "selfaware": "Q:{question}\nA:",
    # It ends with a space, as its authors have it.
    "kuq": "### Question: {question}\n### Answer: ",
}


def fill_template(name: str, question: str) -> str:
    """Return the prompt for a question.

    Raises:
        ConfigError: no template has that name.
    """
    if name not in TEMPLATES:
        raise ConfigError(
            f"the prompt template {name!r} is unknown, expected one of {', '.join(TEMPLATES)}"
        )
    # Not str.format: a question may hold braces.
    return TEMPLATES[name].replace("{question}", question)


def published(
    set: str,
    id: str,
    question: str,
    answers: Sequence[str] = (),
    *,
    answerable: bool | None = None,
    template: str = "unknownbench",
    shown: str | None = None,
    task: bool = False,
) -> Question:
    """A question of a published set, in the words that its authors ask it in.

    Args:
        set: name of the set.
        id: unique in it.
        question: without instructions.
        answers: accepted ones.
        answerable: where None, whether there are answers.
        template: around it.
        shown: what stands in the template in place of the question alone.
        task: whether the set measures the task.
    """
    return Question(
        id=id,
        set=set,
        question=question,
        answerable=bool(answers) if answerable is None else answerable,
        answers=tuple(answers),
        prompt=fill_template(template, question if shown is None else shown),
        task=task,
    )


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below it, one per line.

    They carry no letters: a bare letter could not be looked up in a sentence, and always saying
    "A" would be right in a third of MedMCQA.
    """
    return "\n".join([question, "Choose one of these answers:", *(f"- {c}" for c in choices)])
