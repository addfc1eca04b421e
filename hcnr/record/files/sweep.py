"""`sweep.json`: what a sweep tried and recommends, as it is written and read."""

from typing import Any

from hcnr.config.shared import MAX_ACCURACY_DROP
from hcnr.record.files.decision import Difference, Recommended
from hcnr.record.files.evaluation import CoefficientScores, Means
from hcnr.record.files.restoration import ComparedPair, DataRecord
from hcnr.record.files.schema import Schema


class _Setting(Schema):
    name: str = ""
    settings: dict[str, Any] = {}


class CandidateRecord(Means, _Setting):
    """One configuration that was tried, see `hcnr.search.result.Candidate`.

    Attributes:
        pareto: whether no other one dominates it.
        recommended: whether it is the best one.
        gain: its refusal delta over tuned's.
        interpolation_delta: of the interpolation that keeps as much of the task;
            `interpolation_f1` likewise.
    """

    neurons: int | None = None
    seconds: float | None = None
    refined: bool = False
    pareto: bool = False
    recommended: bool = False
    gain: Difference | None = None
    interpolation_delta: float | None = None
    interpolation_f1: float | None = None


class SweepChoice(Recommended):
    """What to do: with the candidate of these settings, or which coefficient to take instead."""

    settings: dict[str, Any] | None = None
    coefficient: float | None = None


class SweepRecord(Schema):
    """All of `sweep.json`, see `hcnr.search.result.SweepResult` for what the parts are."""

    complete: bool = True
    candidates: list[CandidateRecord] = []
    interpolation: list[CoefficientScores] = []
    tuned: Means | None = None
    base: Means | None = None
    refuse_all: Means | None = None
    recommended: SweepChoice
    max_accuracy_drop: float = MAX_ACCURACY_DROP
    cost: dict[str, float | None] = {}
    ablation: list[CandidateRecord] = []
    config: dict[str, Any] = {}
    validation: dict[str, Any] = {}
    validation_settings: dict[str, Any] = {}
    pair: ComparedPair = ComparedPair()
    data: dict[str, DataRecord] = {}
    versions: dict[str, str] = {}
    messages: list[str] = []

    @property
    def tried(self) -> list[CandidateRecord]:
        """The candidates that a plane of delta and task has a place for."""
        return [candidate for candidate in self.candidates if candidate.defined]

    @property
    def choice(self) -> SweepChoice | None:
        """What to do; None where the sweep was interrupted."""
        return self.recommended if self.complete else None

    @property
    def best(self) -> list[CandidateRecord]:
        """The candidate of the choice, where there is one."""
        return [one for one in self.tried if one.recommended and self.complete][:1]
