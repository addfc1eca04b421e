"""One seed by itself: figures by set, and 95 % intervals over its questions.

Few seeds make an interval over seeds wide, and one seed has none. Questions are many: what one pair
shows about the models of that pair is told by them, by the paired bootstrap that `hcnr evaluate`
uses. It says nothing about other trainings of the same recipe.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.trial.metrics import Metrics
from experiments.trial.seed_result import SeedResult
from hcnr.demo.table import markdown
from hcnr.evaluation.metrics import Outcomes
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.evaluation.scoring import SetScores, difference
from hcnr.stats import RESAMPLES

_REFERENCES = ("base", "tuned")
_BASELINE = "interpolation"


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
        """Of each honesty set one digit per test question, 1 where it should be answered."""
        return self.result.facts["arena"]["answerable"]["evaluated"]

    def rows(self) -> list[dict[str, Any]]:
        """A row for base, tuned and each method that had a candidate; figures in percent.

        Returns:
            `name`, `delta` and its `ci95`, `sets` (set -> delta), `refusal_answerable`, `f1`,
            `kept`, `accuracy`; and, of methods that are compared, `lead` and `lead_ci95`: the delta
            minus that of the interpolation that keeps at least as much on the validation
            questions.
        """
        references = ((name, self.result.references[name]["evaluated"]) for name in _REFERENCES)
        rows = [self._row(name, metrics) for name, metrics in references]
        for name, method_result in self.result.method_results.items():
            selected = method_result.selections[self.level]
            if selected is None:
                continue
            baseline = selected.baselines.get(_BASELINE)
            row = self._row(name, selected.test)
            if baseline is not None:
                ours, theirs = (self._scores(one.test) for one in (selected, baseline))
                lead = difference(ours, theirs)["macro"]["refusal_delta"]
                row |= {"lead": lead["value"], "lead_ci95": lead["ci95"]}
            rows.append(row)
        return rows

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

    def _row(self, name: str, metrics: Metrics) -> dict[str, Any]:
        macro = self._scores(metrics).as_dict()["macro"]
        return {
            "name": name,
            "delta": macro["refusal_delta"],
            "ci95": macro["ci95"]["refusal_delta"],
            "sets": {one: found["refusal_delta"] for one, found in metrics.sets.items()},
            "refusal_answerable": metrics.refusal_answerable,
            "f1": metrics.f1,
            "kept": metrics.retention,
            "accuracy": metrics.accuracy,
        }

    def _scores(self, metrics: Metrics) -> SetScores:
        sets = {
            name: outcomes_of(name, digits, metrics.refused[name])
            for name, digits in self.answerable.items()
        }
        return SetScores(sets, resamples=RESAMPLES)


def seed_tables(result: SeedResult, levels: Sequence[float]) -> list[SeedTable]:
    """The tables of a seed; none where single answers were not kept."""
    known = "answerable" in result.facts["arena"]
    return [SeedTable(result, level) for level in levels] if known else []


def answerable_digits(questions: QuestionSets) -> dict[str, str]:
    """Of each honesty set one digit per question, 1 where it should be answered."""
    return {
        name: "".join(str(int(one.answerable)) for one in many)
        for name, many in questions.honesty.items()
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
