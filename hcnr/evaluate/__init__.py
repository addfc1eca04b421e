"""Measuring honesty: detectors, metrics, benchmark readers and greedy generation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcnr.evaluate.evaluation import evaluate
    from hcnr.evaluate.responses import score_responses

__all__ = ["evaluate", "score_responses"]


def __getattr__(name: str) -> Any:
    """Import torch only with the first function that is used: detectors and readers need none."""
    if name == "evaluate":
        from hcnr.evaluate.evaluation import evaluate

        return evaluate
    if name == "score_responses":
        from hcnr.evaluate.responses import score_responses

        return score_responses
    raise AttributeError(f"module 'hcnr.evaluate' has no attribute {name!r}")
