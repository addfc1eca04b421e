"""What the report beside a restored model says of the samples that it was repaired with."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hcnr.data.overlap import question_print
from hcnr.data.suspicions import NO_REFUSALS
from hcnr.record.writing import report_of


class MeasuredOn(NamedTuple):
    """Samples of a repair.

    Attributes:
        questions: prints of their prompts, see `question_print`; those held back to choose a weight
            too. Empty where no report says.
        refusals: how many of the honesty responses refuse; None where no report says.
    """

    questions: frozenset[str] = frozenset()
    refusals: int | None = None

    @classmethod
    def read(cls, model: Any) -> "MeasuredOn":
        """Read the report in a model's directory; anything without one knows nothing."""
        data = report_of(model).data
        prints = frozenset(print_ for one in data.values() for print_ in one.questions)
        return cls(prints, data["honesty"].refusals if "honesty" in data else None)

    @property
    def doubt(self) -> str | None:
        """Why the repair is not to be trusted whatever is asked; None where nothing is wrong."""
        return NO_REFUSALS if self.refusals == 0 else None

    def overlap(self, label: str, sets: Mapping[str, Iterable[Any]]) -> list[str]:
        """Count the questions of each set that the model was repaired with.

        Args:
            label: name of the model.
            sets: questions by set, with `question` and `prompt`.

        Returns:
            One sentence for each set that holds some.
        """
        notes = []
        for name, questions in sets.items() if self.questions else ():
            known = [self._knows(question) for question in questions]
            if count := sum(known):
                notes.append(
                    f"{count} of the {len(known)} questions of {name} are among the samples that "
                    f"{label} was repaired with: what it answers there is flattered"
                )
        return notes

    def _knows(self, question: Any) -> bool:
        prints = {question_print(question.question), question_print(question.prompt)}
        return not self.questions.isdisjoint(prints)
