"""The mean weight gradient of a data set, the direction of natural steps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from hcnr import ranks
from hcnr.curvature.layouts import SharedInput
from hcnr.curvature.passes import Attempt, Passes, Progress, Totals, refuse_silent
from hcnr.curvature.taps import Taps
from hcnr.data.tokens import TokenizedSet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MeanGradient(NamedTuple):
    """Mean over a data set's samples.

    Attributes:
        loss: of the samples' losses.
        weights: of their weight gradients, matrix -> float32 `[out, in]`.
    """

    loss: float
    weights: dict[str, Tensor]


def mean_gradient(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    token_budget: int,
    gradient_checkpointing: bool = False,
    progress: Progress | None = None,
) -> MeanGradient:
    """Mean loss and mean weight gradient `(1/N) sum_b G_b`: Gamma of method.md (12).

    The one weight gradient that hcnr forms, in float32 whatever the model's dtype.

    Args:
        model: the model to take it at; unchanged afterwards.
        matrices: layers of `model` by name.
        data: tokenised samples.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        progress: called after each micro-batch.

    Returns:
        The mean, on the model's device.

    Raises:
        ModelError: a loss is not finite, one sample does not fit in memory, or a matrix took no
            part in the forward pass.
    """

    def measure(passes: Attempt) -> tuple[Totals, dict[str, Tensor]]:
        gradients: dict[str, Tensor] = {}

        def consume(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
            x, g = (shared.layout.real(rows).float() for rows in (x, g))
            if name in gradients:
                gradients[name].addmm_(g.T, x)
            else:
                gradients[name] = g.T @ x

        with Taps(matrices, on_gradient=consume, model=model) as taps:
            return passes.backward(taps), gradients

    passes = Passes(model, data, token_budget, gradient_checkpointing, progress)
    totals, gradients = passes.run(measure)
    gradients = ranks.summed("gradient", gradients, model.device)
    refuse_silent(matrices, gradients)
    for gradient in gradients.values():
        gradient.div_(len(data))
    return MeanGradient(totals.over_ranks().loss, {name: gradients[name] for name in matrices})
