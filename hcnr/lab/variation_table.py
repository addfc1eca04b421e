"""The tables of the variations: one for each question, and what each variant changes."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from hcnr.lab.choosing import Entry
from hcnr.lab.seed_result import SeedResult
from hcnr.lab.standings import FIGURES, Standing, lead_text, verdict
from hcnr.lab.table import markdown, terminal

if TYPE_CHECKING:
    from hcnr.lab.variations import Question

_REFERENCE = "reference"
COLUMNS = ("what", "seeds", *FIGURES, "vs ref.*")


@dataclasses.dataclass(frozen=True)
class VariationTable:
    """What the variations found.

    Attributes:
        world: Where they were tried.
        questions: What was varied.
        results: One per seed; every arm is a way of it.
        level: Of retention, in percent.
    """

    world: str
    questions: Sequence["Question"]
    results: Sequence[SeedResult]
    level: float

    def rows(self, question: "Question") -> list[Standing]:
        """One row for each arm."""
        references = {
            arm.kind: self._entries(arm.way.name)
            for arm in question.arms
            if arm.variant == question.reference
        }
        return [
            Standing.of_entries(
                f"{arm.kind}, {arm.variant}",
                self._entries(arm.way.name),
                {} if arm.variant == question.reference else {_REFERENCE: references[arm.kind]},
            )
            for arm in question.arms
        ]

    def findings(self, question: "Question") -> list[str]:
        """What can be said, and what cannot."""
        leads = {
            row.name: row.leads[_REFERENCE]
            for row in self.rows(question)
            if _REFERENCE in row.leads
        }
        found = [
            f"{name} is {verdict(lead)} than {question.reference} in F1 ({lead_text(lead)})."
            for name, lead in leads.items()
            if verdict(lead) != "undecided"
        ]
        rest = len(leads) - len(found)
        if rest:
            found.append(f"{rest} of {len(leads)} differences from {question.reference} hold 0.")
        return found

    @property
    def notes(self) -> list[str]:
        """What a reader of the tables must know."""
        numbers = ", ".join(str(one.seed) for one in self.results)
        return [
            f"World {self.world}, seeds {numbers}. Each arm tried 3 to 5 settings and sent in the "
            f"one with the best F1 on the validation questions that keeps at least "
            f"{self.level:g} %, as in the trial; other notes as there.",
            "* F1 minus the reference's, seed by seed; where the interval holds 0 nothing is "
            "claimed.",
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
        parts = [f"## Variations, {self.world} world, at least {self.level:g} % of the task kept\n"]
        for question in self.questions:
            lines = [(row.cells((_REFERENCE,), " "), False) for row in self.rows(question)]
            parts.append(f"### ({question.letter}) {question.title}\n")
            parts.append(markdown(COLUMNS, lines, self.findings(question)))
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
            "notes": self.notes,
            "results": [one.as_dict() for one in self.results],
        }

    def _entries(self, name: str) -> list[Entry | None]:
        return [one.showings[name].entries[self.level] for one in self.results]
