"""What a model is asked: the prompts of the benchmarks' authors."""

from collections.abc import Sequence

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


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below it, one per line.

    They carry no letters: a bare letter could not be looked up in a sentence, and always saying
    "A" would be right in a third of MedMCQA.
    """
    return "\n".join([question, "Choose one of these answers:", *(f"- {c}" for c in choices)])
