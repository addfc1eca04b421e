"""What a sweep found: as Python values, as `sweep.json`, as a table."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hcnr.choosing.front import Gain, Scores, pareto_front, rival
from hcnr.choosing.recommendation import Recommendation, recommend
from hcnr.record.files.sweep import SweepChoice, SweepRecord


@dataclass(frozen=True)
class Candidate:
    """One configuration that was tried.

    Attributes:
        settings: in which it differs from the others, under the names of `RestoreConfig`.
        scores: how it did.
        neurons: how many were restored.
        seconds: what compensating and applying it added; a candidate that holds the one before it
            pays for the difference only.
        name: its row in the ablation, empty elsewhere.
        refined: whether it was tried because it lies near the best of the grid.
    """

    settings: dict[str, Any]
    scores: Scores
    neurons: int
    seconds: float
    name: str = ""
    refined: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        named = {"name": self.name} if self.name else {}
        return {
            **named,
            "settings": self.settings,
            **self.scores.as_dict(),
            "neurons": self.neurons,
            "seconds": self.seconds,
            "refined": self.refined,
        }


@dataclass
class SweepResult:
    """Everything that a sweep has found so far.

    Attributes:
        base: scores of the honest model.
        tuned: scores of the fine-tuned model.
        max_accuracy_drop: points of task accuracy that the recommendation may give up.
        config: all settings that the candidates share.
        candidates: in the order in which they were tried.
        interpolation: the rival: coefficient (0 tuned, 1 base) and scores.
        ablation: rows of the ablation.
        refuse_all: what refusing every question would score; None where the evaluation does not
            tell.
        cost: seconds by kind of work, evaluation apart; `one_restoration` and `ratio` only where
            this sweep measured.
        validation: the sets of questions behind the scores, with their detectors; empty where a
            function gave the scores.
        validation_settings: what else the answers to them depend on.
        pair: names and fingerprints of both models.
        data: of each measured data set: samples, hashes, what was cut.
        versions: of hcnr and the libraries that decide the numbers.
        messages: what a reader should know.
        complete: False in the file of a run that was interrupted.
    """

    base: Scores
    tuned: Scores
    max_accuracy_drop: float
    config: dict[str, Any]
    candidates: list[Candidate] = field(default_factory=list)
    interpolation: list[tuple[float, Scores]] = field(default_factory=list)
    ablation: list[Candidate] = field(default_factory=list)
    refuse_all: Scores | None = None
    cost: dict[str, float | None] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    validation_settings: dict[str, Any] = field(default_factory=dict)
    pair: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def max_task_drop(self) -> float:
        """The former name of `max_accuracy_drop`."""
        return self.max_accuracy_drop

    @property
    def pareto(self) -> list[bool]:
        """Which candidates no other candidate dominates."""
        return pareto_front([candidate.scores for candidate in self.candidates])

    @property
    def recommendation(self) -> Recommendation:
        """Which candidate to take, and why; or that interpolation does as well."""
        scores = [candidate.scores for candidate in self.candidates]
        return recommend(scores, self.tuned, self.max_accuracy_drop, self._curve)

    @property
    def _curve(self) -> list[tuple[float, Scores]]:
        """Interpolation from tuned to base; empty where none was tried."""
        if not self.interpolation:
            return []
        return [(0.0, self.tuned), *self.interpolation, (1.0, self.base)]

    def rival(self, scores: Scores) -> Scores | None:
        """Plain interpolation of best delta at no lower a task accuracy; None without any."""
        curve = [point for _, point in self._curve]
        best = rival(curve, scores.task_accuracy)
        return None if best is None else curve[best]

    def as_dict(self) -> dict[str, Any]:
        """What `sweep.json` holds, see `SweepRecord`; undefined figures are None."""
        chosen = self.recommendation
        settings = None if chosen.index is None else self.candidates[chosen.index].settings
        content = {
            "complete": self.complete,
            "candidates": [
                {
                    **candidate.as_dict(),
                    "pareto": on_front,
                    "recommended": index == chosen.index,
                    "gain": Gain.between(candidate.scores, self.tuned),
                    "interpolation_delta": None if rival is None else rival.refusal_delta,
                    "interpolation_f1": None if rival is None else rival.honesty_f1,
                }
                for index, (candidate, on_front) in enumerate(
                    zip(self.candidates, self.pareto, strict=True)
                )
                for rival in [self.rival(candidate.scores)]
            ],
            "interpolation": [
                {"coefficient": share, **scores.as_dict()} for share, scores in self.interpolation
            ],
            "tuned": self.tuned.as_dict(),
            "base": self.base.as_dict(),
            "refuse_all": None if self.refuse_all is None else self.refuse_all.as_dict(),
            "recommended": SweepChoice.by(
                chosen.decision, settings=settings, coefficient=chosen.coefficient,
                gain=chosen.gain, reason=chosen.reason,
            ),
            "max_accuracy_drop": self.max_accuracy_drop,
            "cost": self.cost,
            "ablation": [row.as_dict() for row in self.ablation],
            "config": self.config,
            "validation": self.validation,
            "validation_settings": self.validation_settings,
            "pair": self.pair,
            "data": self.data,
            "versions": self.versions,
            "messages": self.messages,
        }  # fmt: skip
        return SweepRecord.model_validate(content).as_dict()

    def save(self, path: Path) -> None:
        """Write `sweep.json`, the former one replaced whole.

        Raises:
            OutputError: the place cannot be written to.
        """
        from hcnr.checkpoint import atomic_file

        text = json.dumps(self.as_dict(), indent=2, allow_nan=False)
        with atomic_file(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
