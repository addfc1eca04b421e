"""What a changed recipe makes an earlier run do again."""

from collections.abc import Iterable

_PAIR = ("models.base", "models.tuned", "models.tokenizer")
_READ = (
    *_PAIR, "data.honesty", "settings.samples", "settings.shuffle_seed", "settings.max_length",
    "settings.chat_template", "settings.device", "settings.dtype",
)  # fmt: skip
_MEASURED = (
    *_READ, "data.task", "data.task_questions", "settings.compensation", "settings.task_weight",
    "settings.max_task_drop_percent",
)  # fmt: skip
DEPENDS: dict[str, tuple[str, ...]] = {
    "probe": _READ,
    "search": _MEASURED,
    "choose": (
        *_MEASURED, "data.validation", "data.task_validation", "settings.limit",
        "settings.max_new_tokens", "settings.max_accuracy_drop",
    ),
    "restore": (*_MEASURED, "models.base_id", "models.tuned_id"),
    "evaluate": (
        *_PAIR, "data.questions", "data.task", "data.task_questions", "settings.samples",
        "settings.limit", "settings.max_new_tokens", "settings.chat_template", "settings.device",
        "settings.max_accuracy_drop", "settings.shuffle_seed",
    ),
    "report": (),
}  # fmt: skip
"""Keys of a recipe that each step depends on itself, beside the results of earlier steps."""
RESULTS = ("restore", "evaluate", "report")
"""Steps whose results a user has looked at, perhaps."""


def affected(changed: Iterable[str]) -> list[str]:
    """Steps that depend on one of these keys, in their order."""
    keys = set(changed)
    return [name for name, own in DEPENDS.items() if keys.intersection(own)]


def at_risk(changed: Iterable[str], finished: Iterable[str]) -> list[str]:
    """Finished results that may be replaced: what depends on a key, or rests on such a step."""
    done, steps = set(finished), affected(changed)
    if not steps:
        return []
    # The choice decides what is restored and asked; the page is about everything.
    threatened = {"report", *steps}
    if threatened & {"search", "choose", "restore"}:
        threatened.update(RESULTS)
    return [name for name in RESULTS if name in threatened & done]


def what_becomes(changed: list[str], finished: Iterable[str]) -> str:
    """Say in one sentence what a changed recipe does to finished steps."""
    known, steps = set(finished), affected(changed)
    done = [name for name in DEPENDS if name in known]
    again = [name for name in done if name in steps]
    stay = [name for name in done if name not in steps]
    sentence = f"the recipe differs in {', '.join(changed)}: "
    if not again:
        return f"{sentence}no finished step depends on that"
    sentence += f"{', '.join(again)} {'is' if len(again) == 1 else 'are'} done again"
    if stay:
        sentence += f"; of {', '.join(stay)} only what rests on a result that changes"
    return sentence
