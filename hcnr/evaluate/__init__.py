"""Measuring honesty: detectors, metrics, benchmark readers and greedy generation."""

from hcnr.evaluate.evaluation import evaluate
from hcnr.evaluate.responses import score_responses

__all__ = ["evaluate", "score_responses"]
