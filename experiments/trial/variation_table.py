"""The tables of the variations: one for each question, and what each variant changes."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from experiments.trial.method_summary import (
    COMPARED,
    FIGURES,
    MOST_APART,
    MethodSummary,
    PairedDifference,
    developed_on,
    difference_text,
    half_width,
)
from experiments.trial.seed_result import EDGE, SeedResult
from experiments.trial.selection import Selected
from hcnr.demo.table import markdown, terminal

if TYPE_CHECKING:
    from experiments.trial.variations import Question

_REFERENCE = "reference"
COLUMNS = ("what", "seeds", *FIGURES, *(f"{figure} vs ref.*" for figure in COMPARED))


@dataclasses.dataclass(frozen=True)
class VariationTable:
    """What the variations found.

    Attributes:
        world: Where they were tried.
        questions: What was varied.
        results: One per seed; every arm is a method of it.
        level: Of retention, in percent.
    """

    world: str
    questions: Sequence["Question"]
    results: Sequence[SeedResult]
    level: float

    def rows(self, question: "Question") -> list[MethodSummary]:
        """One row for each arm."""
        references = {
            arm.kind: self._selections(arm.method.name)
            for arm in question.arms
            if arm.variant == question.reference
        }
        return [
            MethodSummary.of_selections(
                f"{arm.kind}, {arm.variant}",
                self._selections(arm.method.name),
                {} if arm.variant == question.reference else {_REFERENCE: references[arm.kind]},
            )
            for arm in question.arms
        ]

    def findings(self, question: "Question") -> list[str]:
        """What can be said, and what cannot."""
        differences = self._differences(question)
        reference, sentences = question.reference, []
        for head, figure in COMPARED.items():
            verdicts = {
                name: difference.verdict(figure) for name, difference in differences.items()
            }
            sentences += [
                f"{name} is {verdicts[name]} than {reference} in {head} "
                f"({difference_text(difference.of(figure))})."
                for name, difference in differences.items()
                if verdicts[name] in ("better", "worse")
            ]
            compared = sum(one != "not compared" for one in verdicts.values())
            undecided = sum(one == "undecided" for one in verdicts.values())
            if undecided:
                sentences.append(
                    f"{head}: {undecided} of {compared} differences from {reference} hold 0."
                )
        for name, difference in differences.items():
            if not difference.comparable:
                mine, theirs = difference.kept
                sentences.append(
                    f"{name} and {reference}: not compared (kept {mine:.1f} against {theirs:.1f})."
                )
        return sentences

    @property
    def comparisons(self) -> int:
        """How many intervals the findings of all questions look at."""
        return sum(
            difference.comparable and half_width(difference.of(figure)) is not None
            for question in self.questions
            for difference in self._differences(question).values()
            for figure in COMPARED.values()
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        seeds = [one.seed for one in self.results]
        tries = sorted({len(one.candidates) for one in self.results[0].method_results.values()})
        return [
            f"World {self.world}, seeds {', '.join(map(str, seeds))}. Each arm tried "
            f"{' or '.join(map(str, tries))} settings, both sides of a comparison as many, "
            "and sent in the one with the best refusal delta on the validation questions that "
            f"keeps at least {self.level:g} %, as in the trial; other notes as there.",
            *developed_on(self.world, seeds),
            "* Minus the reference's figure, seed by seed, over the seeds in which both qualify (n "
            "of them where that is fewer than the row's). Where the two keep more than "
            f"{MOST_APART:g} points apart nothing is said in words; where the interval holds 0 "
            f"nothing is claimed. This page makes {self.comparisons} comparisons in words and "
            "corrects none for their number: were there no difference anywhere, about one in "
            "twenty would exclude 0 by chance.",
            EDGE,
        ]

    def to_rich(self) -> Group:
        """The tables for a terminal of 100 columns."""
        parts = [
            terminal(
                f"({question.letter}) {question.title}",
                COLUMNS,
                [(row.cells((_REFERENCE,), "\n"), False) for row in self.rows(question)],
                self.findings(question),
            )
            for question in self.questions
        ]
        return Group(*parts, Text("\n".join(self.notes), style="dim"))

    def to_markdown(self) -> str:
        """The tables for a report."""
        parts = [
            f"## Variations, {self.world} world, at least {self.level:g} % of the gain in "
            "likelihood kept\n"
        ]
        heads = ("settings chosen", *(f"seed {one.seed}" for one in self.results))
        for question in self.questions:
            lines = [(row.cells((_REFERENCE,), " "), False) for row in self.rows(question)]
            parts.append(f"### ({question.letter}) {question.title}\n")
            parts.append(markdown(COLUMNS, lines, self.findings(question)))
            parts.append(markdown(heads, self._settings(question), []))
        return "\n".join([*parts, *(note.replace("*", r"\*") + "\n" for note in self.notes)])

    def as_dict(self) -> dict[str, Any]:
        """Everything, every candidate of every seed included, for JSON."""
        return {
            "world": self.world,
            "seeds": [one.seed for one in self.results],
            "level": self.level,
            "questions": [
                {
                    "letter": question.letter,
                    "title": question.title,
                    "reference": question.reference,
                    "arms": [row.as_dict() for row in self.rows(question)],
                    "findings": self.findings(question),
                }
                for question in self.questions
            ],
            "comparisons": self.comparisons,
            "notes": self.notes,
            "results": [one.as_dict() for one in self.results],
        }

    def _differences(self, question: "Question") -> dict[str, PairedDifference]:
        """Arm -> how it compares with the reference of its kind."""
        return {
            row.name: row.differences[_REFERENCE]
            for row in self.rows(question)
            if _REFERENCE in row.differences
        }

    def _settings(self, question: "Question") -> list[tuple[list[str], bool]]:
        """What every arm chose in every seed, and what of it is at the edge of its grid."""
        return [
            (
                [
                    f"{arm.kind}, {arm.variant}",
                    *(
                        one.method_results[arm.method.name].settings(self.level)
                        for one in self.results
                    ),
                ],
                False,
            )
            for arm in question.arms
        ]

    def _selections(self, name: str) -> list[Selected | None]:
        return [one.method_results[name].selections[self.level] for one in self.results]
