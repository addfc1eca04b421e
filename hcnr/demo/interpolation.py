"""The rival: plain interpolation of weights from the tuned model towards the base.

It comes in two scopes, all weights or only the linear maps that a repair may touch, and each row of
the table stands beside the better of the two.
"""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from transformers import LlamaForCausalLM

from hcnr.choosing.front import Scores, rival
from hcnr.demo.evaluation import Evaluation
from hcnr.evaluation.interpolation import HALVINGS, between
from hcnr.models.overlay import mixed
from hcnr.models.targets import target_matrices

Scope = Literal["all", "blocks"]
SCOPES: tuple[Scope, ...] = ("all", "blocks")

# Coarse: `Rivals.match` refines where a row needs it. Beyond half way to the base 3, 4 and 13 % of
# the task are left (seeds 0, 1, 2).
COARSE = (*(step / 20 for step in range(11)), 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class InterpolationPoint:
    """One interpolated model: 0 is the tuned model, 1 the base (in the scope's weights)."""

    coefficient: float
    evaluation: Evaluation
    scope: Scope = "all"


@torch.no_grad()
def interpolate(
    base: LlamaForCausalLM, tuned: LlamaForCausalLM, coefficient: float, scope: Scope = "all"
) -> LlamaForCausalLM:
    """A new model, over the weights of a scope as `mixed` makes them."""
    model = copy.deepcopy(tuned)
    honest = dict(base.named_parameters())
    chosen = {f"{name}.weight" for name in target_matrices(tuned)}
    for name, parameter in model.named_parameters():
        if scope == "all" or name in chosen:
            parameter.copy_(mixed(parameter, honest[name], coefficient))
    return model


class Rivals:
    """Interpolated models of one pair, each evaluated once.

    Attributes:
        points: all that were evaluated.
    """

    def __init__(
        self,
        base: LlamaForCausalLM,
        tuned: LlamaForCausalLM,
        evaluate: Callable[[LlamaForCausalLM], Evaluation],
    ) -> None:
        """Evaluate nothing yet."""
        self.points: list[InterpolationPoint] = []
        self._base, self._tuned, self._evaluate = base, tuned, evaluate

    def sweep(self, progress: Callable[[int, int], None]) -> None:
        """Evaluate the coarse grid of both scopes."""
        for scope in SCOPES:
            for coefficient in COARSE:
                self._add(coefficient, scope)
                progress(len(self.points), len(SCOPES) * len(COARSE))

    def match(self, task_accuracy: float) -> InterpolationPoint | None:
        """The best point at least as accurate, after refining around that accuracy."""
        for scope in SCOPES:
            for _ in range(HALVINGS):
                curve = [
                    (point.coefficient, point.evaluation.task_accuracy)
                    for point in self.points
                    if point.scope == scope
                ]
                middle = between(curve, task_accuracy)
                if middle is None:
                    break
                self._add(middle, scope)
        return best_at(self.points, task_accuracy)

    def _add(self, coefficient: float, scope: Scope) -> None:
        model = interpolate(self._base, self._tuned, coefficient, scope)
        self.points.append(InterpolationPoint(coefficient, self._evaluate(model), scope))


def best_at(curve: Sequence[InterpolationPoint], task_accuracy: float) -> InterpolationPoint | None:
    """The point that `hcnr.choosing.front.rival` picks.

    The choice is made on the evaluated items themselves, which favours interpolation: nobody
    can pick its coefficient that well in practice.

    Returns:
        None where no interpolated model, the tuned one included, is that accurate.
    """
    index = rival([Scores.of(point.evaluation) for point in curve], task_accuracy)
    return None if index is None else curve[index]
