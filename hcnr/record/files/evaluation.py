"""`metrics.json`: what an evaluation found, as it is written and read."""

import math
from typing import Any, Generic, TypeVar

from pydantic import Field

from hcnr.choosing.front import Scores
from hcnr.config.shared import MAX_ACCURACY_DROP
from hcnr.record.files.decision import AccuracyDrop, Difference, Recommended
from hcnr.record.files.schema import Interval, Schema

Value = TypeVar("Value")


class _Rates(Schema, Generic[Value]):
    """Rates in percent, see `hcnr.evaluation.metrics.rates`; None where one is not defined."""

    precision: Value | None = None
    recall: Value | None = None
    f1: Value | None = None
    refusal_rate_unanswerable: Value | None = None
    refusal_rate_answerable: Value | None = None
    refusal_delta: Value | None = None
    accuracy_answerable: Value | None = None
    exact_match_answerable: Value | None = None
    accuracy: Value | None = None
    exact_match: Value | None = None
    refusal_rate: Value | None = None


# Of several bases the fields of the last one stand first in the file.


class _Counts(Schema):
    detector: str | None = None
    n: int | None = None
    tp: int | None = None
    fp: int | None = None
    fn: int | None = None
    tn: int | None = None
    gold: int | None = None
    sets: int | None = None
    sets_by_rate: dict[str, int] = {}


class Calibration(Schema):
    """Columns of one set, see `hcnr.evaluation.calibration`."""

    n: int | None = None
    refusal_probability: float | None = None
    ece: float | None = None
    auroc: float | None = None


class Scored(_Rates[float], _Counts):
    """One model on one set, or the unweighted means over `sets` of them.

    An honesty set has counts of its `n` questions (`tp` to `tn`, and those `skipped`) and the first
    eight rates; a task set `gold`, the questions with known answers, and the last three.

    Attributes:
        sets_by_rate: of means: the number of sets, where a rate is not defined on all.
        ci95: 95 % intervals by rate.
        empty: responses without a word.
    """

    ci95: dict[str, Interval | None] = {}
    empty: int | None = None
    calibration: Calibration | None = None
    skipped: int | None = None


class ModelScores(Schema):
    """How one model scored: on every honesty set, on every task set, and the means over both.

    Attributes:
        name: what a reader calls the model; it is not written.
    """

    sets: dict[str, Scored] = {}
    macro: Scored = Scored()
    tasks: dict[str, Scored] = {}
    tasks_macro: Scored = Scored()
    name: str = Field(default="", exclude=True)

    def named(self, name: str) -> "ModelScores":
        """The same under a name."""
        return self.model_copy(update={"name": name})

    @property
    def task_accuracy(self) -> float | None:
        """Mean accuracy over the task sets."""
        return self.tasks_macro.accuracy

    @property
    def figures(self) -> Scores:
        """The means that decide, as `hcnr.choosing` takes them."""
        known = (self.macro.f1, self.macro.refusal_delta, self.task_accuracy)
        f1, delta, task = (math.nan if value is None else value for value in known)
        return Scores(f1, delta, task)

    @property
    def empty_share(self) -> float | None:
        """Share of empty outputs over all sets, 0 to 1."""
        entries = [*self.sets.values(), *self.tasks.values()]
        known = [(entry.empty, entry.n) for entry in entries if entry.empty is not None and entry.n]
        total = sum(n for _, n in known)
        return sum(empty for empty, _ in known) / total if total else None


class _Interpolated(Schema):
    """Plain interpolation: `coefficient` 0 is tuned, 1 base; `scope` tells the demo's weights."""

    coefficient: float
    scope: str | None = None


class Means(Schema):
    """The figures that decide, see `hcnr.choosing.front.Scores`, in percent and points."""

    honesty_f1: float | None = None
    refusal_delta: float | None = None
    task_accuracy: float | None = None
    refusal_rate_answerable: float | None = None

    @property
    def defined(self) -> bool:
        """Whether it can be compared with others."""
        return self.refusal_delta is not None and self.task_accuracy is not None

    @property
    def coordinates(self) -> tuple[float, float]:
        """Task accuracy and refusal delta of what is `defined`."""
        return self.task_accuracy or 0.0, self.refusal_delta or 0.0


class CoefficientScores(Means, _Interpolated):
    """One point of the curve: its means, and whether all questions or a part were asked.

    Attributes:
        chosen: whether it is the best one at no less task accuracy than the model's.
    """

    chosen: bool = False
    questions: int | None = None
    complete: bool = True

    @property
    def scores(self) -> ModelScores:
        """The means as those of a model."""
        return ModelScores(
            macro=Scored(refusal_delta=self.refusal_delta, f1=self.honesty_f1),
            tasks_macro=Scored(accuracy=self.task_accuracy),
        )


class InterpolationRow(ModelScores, _Interpolated):
    """The chosen point of the curve with all its numbers."""


class MeanDifference(_Rates[Difference]):
    """Two models' means, `sets_by_rate` as in `Scored`."""

    sets_by_rate: dict[str, int] = {}


class ModelDifference(Schema):
    """One model minus another, rate by rate."""

    sets: dict[str, dict[str, Difference]] = {}
    tasks: dict[str, dict[str, Difference]] = {}
    macro: MeanDifference = MeanDifference()
    tasks_macro: MeanDifference = MeanDifference()


class Asked(Schema):
    """The settings of an evaluation that its numbers depend on, see `hcnr.EvaluateConfig`."""

    limit: int | None = None
    detector: str | None = None
    strict: bool = False
    compat: bool = False
    chat_template: str = "auto"
    max_new_tokens: int | None = None
    batch_size: int | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int = 0
    resamples: int = 0
    max_accuracy_drop: AccuracyDrop = MAX_ACCURACY_DROP
    refusal: str | None = None


class QuestionSet(Schema):
    """Where the questions of a set come from."""

    sha256: str | None = None
    source: str | None = None
    questions: int | None = None
    format: str | None = None


class Words(Schema):
    """What a trait calls the questions that should be refused, and those to answer."""

    positive: str = "unanswerable"
    negative: str = "answerable"


class _Evaluated(Schema):
    model: str
    trait: str = "honesty"
    words: Words = Words()


class EvaluationRecord(ModelScores, _Evaluated):
    """All of `metrics.json`: scores of the model first, then of others, and what follows.

    Attributes:
        refuse_all: what refusing every question would score.
        models: what it is compared with; `differences` are the model minus each.
        common: scores of all by the trait's own detector.
        intervals: how they were made; left out without any.
        interpolation: the curve; `interpolation_row` is its best point at the model's task
            accuracy.
        recommendation: None where tuned was not asked.
        fingerprints: where they tell the models apart; `sha256` is of all weights.
        endpoints: of models that a server answers for: `url` and `model`.
    """

    refuse_all: ModelScores | None = None
    models: dict[str, ModelScores] = {}
    differences: dict[str, ModelDifference] = {}
    common: dict[str, ModelScores] = {}
    notes: list[str] = []
    intervals: dict[str, Any] = {}
    interpolation: list[CoefficientScores] = []
    interpolation_row: InterpolationRow | None = None
    recommendation: Recommended | None = None
    fingerprints: dict[str, str] = {}
    sha256: dict[str, str] = {}
    endpoints: dict[str, dict[str, str]] = {}
    settings: Asked = Asked()
    data: dict[str, QuestionSet] = {}
    seconds: dict[str, float] = {}
    versions: dict[str, str] = {}

    @property
    def asked_all(self) -> bool:
        """Whether every question of the sets was asked."""
        return "limit" in self.settings.model_fields_set and self.settings.limit is None
