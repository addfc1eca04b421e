"""One seed by itself: figures by set, and 95 % intervals over its questions.

Few seeds make an interval over seeds wide, and one seed has none. Questions are many: what one pair
shows about the models of that pair is told by them, by the paired bootstrap that `hcnr evaluate`
uses. It says nothing about other trainings of the same recipe.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.trial.arena import Marks
from experiments.trial.seed_result import SeedResult
from hcnr.demo.table import markdown
from hcnr.evaluation.metrics import Outcomes
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.evaluation.scoring import SetScores, difference
from hcnr.stats import RESAMPLES

_ENDS = ("base", "tuned")
_RIVAL = "interpolation"


@dataclasses.dataclass(frozen=True)
class SeedTable:
    """The rows of one seed at one level of retention.

    Attributes:
        result: of the seed, whose questions' classes are among its facts.
        level: of retention, in percent.
    """

    result: SeedResult
    level: float

    @property
    def answerable(self) -> Mapping[str, str]:
        """Of each honesty set one digit per evaluated question, 1 where it should be answered."""
        return self.result.facts["arena"]["answerable"]["evaluated"]

    def rows(self) -> list[dict[str, Any]]:
        """A row for base, tuned and each way that had a candidate; figures in percent.

        Returns:
            `name`, `delta` and its `ci95`, `sets` (set -> delta), `refusal_answerable`, `f1`,
            `kept`, `accuracy`; and, of ways that are compared, `lead` and `lead_ci95`: the delta
            minus that of the interpolation that keeps at least as much on the validation
            questions.
        """
        ends = ((name, self.result.ends[name]["evaluated"]) for name in _ENDS)
        found = [self._row(name, marks) for name, marks in ends]
        for name, showing in self.result.showings.items():
            entry = showing.entries[self.level]
            if entry is None:
                continue
            rival = entry.rivals.get(_RIVAL)
            row = self._row(name, entry.evaluated)
            if rival is not None:
                ours, theirs = (self._scores(one.evaluated) for one in (entry, rival))
                lead = difference(ours, theirs)["macro"]["refusal_delta"]
                row |= {"lead": lead["value"], "lead_ci95": lead["ci95"]}
            found.append(row)
        return found

    def to_markdown(self) -> str:
        """The rows, and how base was admitted to each set."""
        sets = list(self.answerable)
        heads = ("way", "delta", *sets, "ref. ans.", "F1", "kept", self._figure, "delta vs int.")
        lines = [(_cells(row, sets), False) for row in self.rows()]
        title = f"### Seed {self.result.seed}, at least {self.level:g} % kept\n"
        return f"{title}\n{markdown(heads, lines, [])}"

    @property
    def _figure(self) -> str:
        return self.result.facts["arena"].get("task_figure", "exact")

    def _row(self, name: str, marks: Marks) -> dict[str, Any]:
        macro = self._scores(marks).as_dict()["macro"]
        return {
            "name": name,
            "delta": macro["refusal_delta"],
            "ci95": macro["ci95"]["refusal_delta"],
            "sets": {one: found["refusal_delta"] for one, found in marks.sets.items()},
            "refusal_answerable": marks.refusal_answerable,
            "f1": marks.f1,
            "kept": marks.retention,
            "accuracy": marks.accuracy,
        }

    def _scores(self, marks: Marks) -> SetScores:
        sets = {
            name: outcomes_of(name, digits, marks.refused[name])
            for name, digits in self.answerable.items()
        }
        return SetScores(sets, resamples=RESAMPLES)


def seed_tables(result: SeedResult, levels: Sequence[float]) -> list[SeedTable]:
    """The tables of a seed; none where single answers were not kept."""
    known = "answerable" in result.facts["arena"]
    return [SeedTable(result, level) for level in levels] if known else []


def answerable_digits(panel: QuestionSets) -> dict[str, str]:
    """Of each honesty set one digit per question, 1 where it should be answered."""
    return {
        name: "".join(str(int(one.answerable)) for one in many)
        for name, many in panel.honesty.items()
    }


def admission_table(admission: Mapping[str, Mapping[str, Any]]) -> str:
    """Each honesty set's delta at base, by which it takes part or not, as Markdown."""
    lines = [
        (
            [
                name,
                f"{one['n']}",
                f"{one['delta']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})",
                "yes" if one["admitted"] else "no: base does not tell them apart",
            ],
            False,
        )
        for name, one in admission.items()
    ]
    return markdown(("honesty set", "questions", "delta at base", "takes part"), lines, [])


def outcomes_of(name: str, answerable: str, refused: str) -> Outcomes:
    """Outcomes of a set from a digit per question: whether it should be answered, was refused."""
    should, did = (np.array([one == "1" for one in digits]) for digits in (answerable, refused))
    nothing = np.zeros(len(should), dtype=bool)
    return Outcomes(
        ids=tuple(f"{name}-{i}" for i in range(len(should))),
        detector="",
        answerable=should,
        refused=did,
        gold=nothing,
        contained=nothing,
        exact=nothing,
        empty=nothing,
        counted=~nothing,
    )


def _cells(row: Mapping[str, Any], sets: list[str]) -> list[str]:
    low, high = row["ci95"]
    lead = ""
    if "lead" in row:
        lead = f"{row['lead']:+.1f} ({row['lead_ci95'][0]:+.1f} to {row['lead_ci95'][1]:+.1f})"
    return [
        row["name"],
        f"{row['delta']:+.1f} ({low:+.1f} to {high:+.1f})",
        *(f"{row['sets'][name]:+.1f}" for name in sets),
        *(f"{row[name]:.1f}" for name in ("refusal_answerable", "f1", "kept", "accuracy")),
        lead,
    ]
