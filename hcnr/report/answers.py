"""The section of the page in which people read what the models said.

Every set has up to three lists to unfold: questions that the restored model handles better than
the tuned one, worse, and as before. No script is needed for it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hcnr.evaluation.judged import INTERPOLATION, JUDGED, Answer, JudgedQuestion, read_judged

RESTORED, TUNED = "restored", "tuned"
SHOWN = 150
"""Questions on the page at most, so that it stays light; the file has all."""
LONGEST = 280
"""Characters of a question or a response; longer ones are cut."""


class Group(NamedTuple):
    """Questions of one set that changed alike.

    Attributes:
        set: name of the set.
        title: how they changed; on the page also how many there are.
        kind: `worse`, `better` or `same`, for the style.
        questions: all of them; on the page those that have a place.
    """

    set: str
    title: str
    kind: str
    questions: list[JudgedQuestion]


def answers_beside(metrics: Path, names: Mapping[str, str]) -> list[JudgedQuestion]:
    """The answers of an evaluation, by the names that the models have on the page.

    Args:
        metrics: its `metrics.json`, beside which they lie.
        names: an evaluated model -> its name on the page.

    Returns:
        Nothing where the evaluation is older than the file, or was written elsewhere.

    Raises:
        DataError: the file is not what an evaluation writes.
    """
    path = metrics.with_name(JUDGED)
    if not path.is_file():
        return []

    def shown(label: str) -> str:
        if label.startswith(INTERPOLATION):
            return f"interpolation ({label.removeprefix(INTERPOLATION)})"
        return names.get(label, label)

    return [
        one.model_copy(update={"said": {shown(label): said for label, said in one.said.items()}})
        for one in read_judged(path)
    ]


def answer_groups(questions: Sequence[JudgedQuestion]) -> list[Group]:
    """The questions by set and by what the repair changed, unchanged ones last.

    A question changed where the restored model does what it should and the tuned one does not, or
    the other way round, see `JudgedQuestion.good`. Questions that only one of them was asked are
    left out.
    """
    groups: list[Group] = []
    titles = {
        "worse": "worse than tuned",
        "better": "better than tuned",
        "same": "judged as before",
    }
    asked = [question for question in questions if {RESTORED, TUNED} <= question.said.keys()]
    for name in dict.fromkeys(one.set for one in asked):
        by_kind: dict[str, list[JudgedQuestion]] = {kind: [] for kind in titles}
        for question in asked:
            if question.set == name:
                by_kind[_change(question)].append(question)
        groups += [Group(name, titles[kind], kind, some) for kind, some in by_kind.items() if some]
    return groups


def answer_lists(questions: Sequence[JudgedQuestion], most: int = SHOWN) -> list[Group]:
    """All groups, each to unfold, with `most` questions altogether, and one of each at least."""
    groups = answer_groups(questions)
    shares = _shares([len(group.questions) for group in groups], most)
    return [_first(group, share) for group, share in zip(groups, shares, strict=True)]


def _shares(counts: Sequence[int], most: int) -> list[int]:
    """How many of each group are shown: small groups whole, the rest alike."""
    shares, left = [0] * len(counts), most
    order = sorted(range(len(counts)), key=lambda i: counts[i])
    for done, i in enumerate(order):
        shares[i] = min(counts[i], max(1, left // (len(order) - done)))
        left -= shares[i]
    return shares


def _change(question: JudgedQuestion) -> str:
    after, before = question.good(RESTORED), question.good(TUNED)
    if after == before:
        return "same"
    return "better" if after else "worse"


def _first(group: Group, shown: int) -> Group:
    count = len(group.questions)
    part = "" if shown == count else f", the first {shown} shown"
    title = f"{count} question{'' if count == 1 else 's'} {group.title}{part}"
    return group._replace(title=title, questions=group.questions[:shown])


def wanted(question: JudgedQuestion) -> str:
    """What should be done with a question."""
    if not question.answerable:
        return "to be refused"
    return f"to be answered: {cut(question.answers[0])}" if question.answers else "to be answered"


def restored_first(answers: Mapping[str, Answer]) -> list[tuple[str, Answer]]:
    """What the models said, the restored and the tuned one's before the others'."""
    first = [name for name in (RESTORED, TUNED) if name in answers]
    return [(name, answers[name]) for name in (*first, *(n for n in answers if n not in first))]


def cut(text: str) -> str:
    """A text as the page shows it: on one line, and not longer than `LONGEST`."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
