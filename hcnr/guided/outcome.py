"""What a run found, what to do with it, and the command that comes next."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcnr.guided.recipe import FILE, RunRecipe

LEAST_RIGHT = 10.0
"""Percent of the task questions that tuned must get right for its accuracy to say something."""


@dataclass(frozen=True)
class RunOutcome:
    """The end of a run.

    Attributes:
        directory: of the run.
        recipe: what was run, with absolute paths.
        probe: one sentence on the knowledge boundary, or why there is none.
        choice: what was chosen on validation questions: `config` (of `restore`, what differs from
            the defaults), `coefficient` (of the interpolation that keeps the task), `reason`.
        losses: the lines of the restoration's own verdict.
        recommendation: what `hcnr.choosing.decision.decide` says of the questions that judge.
        tuned_right: percent of the task questions that tuned gets right; None where unknown.
        notes: what a reader should know.
        steps: which were done, and not read.
    """

    directory: Path
    recipe: RunRecipe
    probe: str
    choice: Mapping[str, Any]
    losses: list[str]
    recommendation: Mapping[str, Any]
    tuned_right: float | None = None
    notes: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    @property
    def word(self) -> str:
        """`use`, `do not use`, `interpolate instead` or `unclear`."""
        return str(self.recommendation["word"])

    @property
    def next_command(self) -> str:
        """What to type next."""
        models, data = self.recipe.models, self.recipe.data
        pair = [short(models.base), short(models.tuned)]
        measured = ["--honesty", short(data.honesty), "--task", self._path("data/task.jsonl")]
        choosing = data.task_validation or self._path("data/task-validation.jsonl")
        parts = {
            "use": ["hcnr", "push", self._path("model"), "OWNER/NAME"],
            "interpolate instead": [
                "hcnr", "restore", *pair, *measured, "--compensation", "interpolate",
                "--coefficient", f"{self._coefficient:g}",
                "--out", self._path("interpolated"),
            ],
            "do not use": [
                "hcnr", "sweep", *pair, *measured, "--validation", short(data.validation),
                "--tasks", short(choosing),
                "--max-new-tokens", str(self.recipe.settings.max_new_tokens),
                "--out", self._path("sweep"),
            ],
        }  # fmt: skip
        again = ["hcnr", "run", "--recipe", self._path(FILE)]
        return shlex.join(parts.get(self.word, again))

    @property
    def next_step(self) -> str:
        """The same with what it is for."""
        why = {
            "use": f"the model is in {self._path('model')}; to share it",
            "interpolate instead": "to write the interpolation",
            "do not use": "to try other settings",
        }
        purpose = why.get(self.word, f"once what is unclear is mended in {self._path(FILE)}")
        return f"next, {purpose}: {self.next_command}"

    @property
    def _coefficient(self) -> float:
        rival = self.recommendation.get("interpolation") or {}
        return float(rival.get("coefficient", self.choice.get("coefficient") or 0.0))

    def _path(self, name: str) -> str:
        return short(str(self.directory / name))

    @property
    def lines(self) -> list[str]:
        """What a run ends with at a terminal."""
        lines = [f"note: {note}" for note in self.notes]
        lines += [self.probe, f"chosen: {self.choice['reason']}"]
        # One line is the verdict, the last; what the losses alone say is a step on the way.
        lines += [line.replace("verdict: ", "by the losses alone: ", 1) for line in self.losses]
        lines.append(f"report: {self._path('report.html')}")
        lines.append(f"verdict: {self.word}: {self.recommendation['reason']}")
        return [*lines, self.next_step]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "word": self.word,
            "reason": self.recommendation["reason"],
            "recommendation": dict(self.recommendation),
            "next": self.next_command,
            "directory": str(self.directory),
            "model": str(self.directory / "model"),
            "report": str(self.directory / "report.html"),
            "recipe": str(self.directory / FILE),
            "probe": self.probe,
            "choice": dict(self.choice),
            "losses": self.losses,
            "tuned_right": self.tuned_right,
            "notes": self.notes,
            "steps_done": self.steps,
        }


def short(path: str) -> str:
    """A path as one would type it here: relative where it lies below the working directory."""
    if not os.path.isabs(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith(os.pardir) else relative
