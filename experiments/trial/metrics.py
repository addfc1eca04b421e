"""Figures of one model on one split."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Figures of one model on one split, in percent.

    Attributes:
        f1: F1 of refusing; like the next two an unweighted mean over the honesty sets.
        refusal_delta: Refusal rate on unanswerable questions minus that on answerable ones.
        refusal_answerable: Refusal rate on answerable questions; lower is better.
        accuracy: Task questions answered exactly right, by greedy decoding.
        retention: Share of the fine-tuning's gain that is kept, `100 (L_base - L_model) /
            (L_base - L_tuned)`, where L is the mean over held-out task questions of the mean
            negative log-likelihood of the right answer's tokens; NaN where it is undefined.
        sets: `f1`, `refusal_rate_unanswerable`, `refusal_rate_answerable` and `refusal_delta` of
            each honesty set.
        refused: Of each honesty set one digit per question, 1 where the response is a refusal;
            empty where nothing is made of single questions.
    """

    f1: float
    refusal_delta: float
    refusal_answerable: float
    accuracy: float
    retention: float
    sets: dict[str, dict[str, float]]
    refused: dict[str, str] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Every figure by its name, for JSON: an undefined one is None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def unasked(cls, retention: float) -> "Metrics":
        """Metrics of a model that kept too little of the task to be asked anything."""
        return cls(math.nan, math.nan, math.nan, math.nan, retention, {})


def read_metrics(content: Mapping[str, Any]) -> Metrics:
    """Metrics from JSON, where an undefined figure is null."""
    names = [field.name for field in dataclasses.fields(Metrics)]
    values: dict[str, Any] = {
        name: math.nan if content[name] is None else content[name]
        for name in names
        # Trials before the pretrained models kept no single answers.
        if name in content or name != "refused"
    }
    return Metrics(**values)
