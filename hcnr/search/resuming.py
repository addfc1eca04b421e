"""What a sweep that was stopped leaves for the next one: passes, scores, judged candidates."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hcnr.checkpoint.kept_work import KeptWork
from hcnr.choosing.front import Scores
from hcnr.config import RestoreConfig, SweepConfig
from hcnr.search.validation import Validation

__all__ = ["kept_scores", "kept_work", "question_key"]


def kept_work(file: Path | None, evaluate: Any, *, fresh: bool) -> KeptWork:
    """Where a sweep keeps what is finished, beside its file.

    Where a function of the caller's judges nothing is kept: nothing tells it from another.
    """
    return KeptWork.beside(file if isinstance(evaluate, Validation) else None, fresh=fresh)


def question_key(
    evaluate: Any, plan: Sequence[tuple[str, RestoreConfig]], search: SweepConfig
) -> dict[str, Any] | None:
    """What decides the scores of a sweep beside the models and what is measured.

    Args:
        evaluate: judges the candidates.
        plan: the configurations, named in the ablation.
        search: how candidates are asked, and what is tried beside the grid.

    Returns:
        Plain values for JSON; None where a function of the caller's judges.
    """
    if not isinstance(evaluate, Validation):
        return None
    return {
        "questions": evaluate.sha256,
        "plan": [[name, config.model_dump(mode="json")] for name, config in plan],
        "search": search.model_dump(mode="json"),
    }


def kept_scores(
    keep: KeptWork, name: str, make: Callable[[], tuple[Scores, float]]
) -> tuple[Scores, float]:
    """Scores and the seconds of making their model: those that were kept, or those of `make`."""

    def plain() -> tuple[Any, ...]:
        scores, seconds = make()
        draws = scores.delta_draws
        return (
            scores.honesty_f1,
            scores.refusal_delta,
            scores.task_accuracy,
            scores.refusal_rate_answerable,
            None if draws is None else torch.tensor(draws),
            scores.task_step,
            seconds,
        )

    f1, delta, task, false, draws, step, seconds = keep.of(name, plain)
    return Scores(f1, delta, task, false, None if draws is None else draws.numpy(), step), seconds
