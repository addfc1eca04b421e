"""Natural steps, method.md (12): down the honesty loss, by the curvature of both data sets."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hcnr.checkpoint import all_finite
from hcnr.config import RestoreConfig
from hcnr.curvature.gradient import mean_gradient
from hcnr.curvature.passes import mean_loss
from hcnr.curvature.spectral_bases import SpectralBases
from hcnr.errors import ModelError
from hcnr.models.experts import layer_of
from hcnr.models.overlay import Overlay
from hcnr.repair.compensate import whole_weight

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Weights = Callable[[str], tuple[Tensor, Tensor]]
"""Matrix name -> its base and its tuned weight, `[out, in]` on the CPU."""


@dataclass(frozen=True)
class Step:
    """One step of a walk.

    Attributes:
        step: counted from 1.
        honesty_loss: mean over the honesty samples before the step.
        length: Frobenius norm over all matrices.
        share: the same as a share of that of `W1 - W0`.
    """

    step: int
    honesty_loss: float
    length: float
    share: float


@dataclass
class Walk:
    """Where natural steps lead.

    Attributes:
        deviations: matrix -> E `[out, in]`, float32 on the CPU.
        steps: those that were made, in order.
        honesty_loss: after the last one.
    """

    deviations: dict[str, Tensor]
    steps: list[Step] = field(default_factory=list)
    honesty_loss: float = math.nan


def natural_steps(
    overlay: Overlay,
    weights: Weights,
    names: list[str],
    spectral_bases: SpectralBases,
    config: RestoreConfig,
    *,
    start: dict[str, Tensor] | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Walk:
    """Step down the honesty loss with `spectral_bases.by_kind["natural"]`, method.md (12).

    `E <- E + eta S`, S of `SpectralBasis.natural_step` for the mean honesty gradient at the weights
    as they are, measured again before each step. eta makes a step `step_size` times
    as long as `W1 - W0`, over all matrices together. A gradient of zero ends the walk.

    Args:
        overlay: over the tuned model, which holds the repaired weights afterwards.
        weights: base and tuned weight of a matrix.
        names: the matrices to repair, all of them in `spectral_bases`.
        spectral_bases: bases, and the honesty samples.
        config: task weight, steps, step size, how to measure.
        start: E to start from, changed on the way; `W1 - W0`, the tuned weights, when None.
        advance: told about steps.

    Raises:
        ModelError: a pass fails, or a gradient is not finite.
    """
    model = cast("PreTrainedModel", overlay.model)
    walk = Walk({name: _difference(*weights(name)) for name in names} if start is None else start)
    tuning_length = _norm(_difference(*weights(name)) for name in names)
    chosen = set(names)
    groups = [[name for name in group if name in chosen] for group in spectral_bases.groups]
    measuring: dict[str, Any] = {"token_budget": config.token_budget}

    def put() -> None:
        for name in names:
            weight = whole_weight(name, *weights(name), walk.deviations[name])
            overlay.put_matrix(name, weight)

    if start is not None:
        put()
    for step in range(1, config.steps + 1):
        loss, directions = math.nan, {}
        for group in filter(None, groups):
            gradient = mean_gradient(
                model,
                {name: layer_of(model, name) for name in group},
                spectral_bases.honesty,
                gradient_checkpointing=config.recomputes,
                **measuring,
            )
            spectral_bases.passes += 1
            loss = gradient.loss
            for name in group:
                basis = spectral_bases.by_kind["natural"][name]
                towards = gradient.weights.pop(name).to(basis.device)
                if not all_finite(towards):
                    raise ModelError(
                        f"the honesty gradient of {name} holds NaN or infinity before step {step}; "
                        "measure with --dtype float32 or bfloat16, or take a smaller --step-size"
                    )
                directions[name] = basis.natural_step(towards, config.mu).cpu()
        length = _norm(directions.values())
        scale = config.step_size * tuning_length / length if length > 0 else math.inf
        if scale > torch.finfo(torch.float32).max:
            # A gradient of zero, or as good as that: nowhere to go.
            walk.honesty_loss = loss
            return walk
        for name in names:
            walk.deviations[name] = walk.deviations[name].add(directions.pop(name), alpha=scale)
        walk.steps.append(Step(step, loss, scale * length, config.step_size))
        put()
        if advance is not None:
            advance(step, config.steps)
    walk.honesty_loss = mean_loss(model, spectral_bases.honesty, **measuring)
    return walk


def _difference(base: Tensor, tuned: Tensor) -> Tensor:
    return tuned.float() - base.float()


def _norm(matrices: Iterable[Tensor]) -> float:
    """Frobenius norm of all of them together."""
    norms = (torch.linalg.vector_norm(matrix, dtype=torch.float64) for matrix in matrices)
    return math.sqrt(sum(float(norm) ** 2 for norm in norms))
