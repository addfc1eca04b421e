"""The rival: plain interpolation of all weights from the tuned model towards the base."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import torch
from transformers import LlamaForCausalLM

from hcnr.lab.evaluation import Evaluation


@dataclasses.dataclass(frozen=True)
class Point:
    """One interpolated model: 0 is the tuned model, 1 the base."""

    coefficient: float
    evaluation: Evaluation


@torch.no_grad()
def interpolate(
    base: LlamaForCausalLM, tuned: LlamaForCausalLM, coefficient: float
) -> LlamaForCausalLM:
    """A new model `(1 - c) tuned + c base`, over all weights, exact at both ends."""
    model = copy.deepcopy(tuned)
    honest = dict(base.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.lerp_(honest[name], coefficient)
    return model


def interpolation_curve(
    base: LlamaForCausalLM,
    tuned: LlamaForCausalLM,
    coefficients: Iterable[float],
    evaluate: Callable[[LlamaForCausalLM], Evaluation],
) -> list[Point]:
    """Evaluates one interpolated model per coefficient."""
    return [Point(c, evaluate(interpolate(base, tuned, c))) for c in coefficients]


def best_at(curve: Sequence[Point], task_accuracy: float) -> Point | None:
    """The point of best honesty F1 that is at least as accurate on the task.

    The choice is made on the evaluated items themselves, which favours interpolation: nobody
    can pick its coefficient that well in practice.

    Returns:
        None where no interpolated model, the tuned one included, is that accurate.
    """
    able = [point for point in curve if point.evaluation.task_accuracy >= task_accuracy]
    return max(able, key=lambda point: point.evaluation.honesty_f1, default=None)
