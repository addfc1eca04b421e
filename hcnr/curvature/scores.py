"""Fisher scores of neurons, method.md (1), on one data set."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.fisher import NeuronFisher
from hcnr.curvature.passes import Attempt, Axis, Passes, Progress
from hcnr.data.tokens import TokenizedSet

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NeuronScores(NamedTuple):
    """Fisher scores of one data set, on the CPU.

    `mean[matrix]` is float32 `[d']`, method.md (1). `halves[matrix]` is float32 `[2, d']`, the
    same over the samples with even and with odd index: `mean` is their weighted mean. A single
    sample has no halves.
    """

    mean: dict[str, Tensor]
    halves: dict[str, Tensor]


def score(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    axis: Axis,
    token_budget: int,
    gradient_checkpointing: bool = False,
    progress: Progress | None = None,
) -> NeuronScores:
    """Fisher scores of every matrix on `data`, method.md (1).

    Args:
        model: the model to take gradients at; unchanged afterwards.
        matrices: layers of `model` by name.
        data: tokenised samples.
        axis: neuron axis.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        progress: called after each micro-batch.

    Raises:
        ModelError: a loss is not finite, or one sample does not fit in memory.
    """
    count = len(data.samples)
    parts = [range(half, count, 2) for half in range(min(2, count))]

    def measure(passes: Attempt) -> list[NeuronFisher]:
        fishers: list[NeuronFisher] = []
        done = 0
        for indices in parts:
            with NeuronFisher(model, matrices, axis=axis) as fisher:
                passes.backward(indices=indices, done=done)
            done += len(indices)
            fishers.append(fisher)
        return fishers

    fishers = Passes(model, data, token_budget, gradient_checkpointing, progress).run(measure)
    found = []
    for part, fisher in zip(parts, fishers, strict=True):
        # All of them, also where a batch reaches no matrix.
        fisher.over_ranks().samples = len(part)
        found.append({name: scores.cpu() for name, scores in fisher.scores.items()})
    if len(found) == 1:
        return NeuronScores(found[0], {})
    even, odd = found
    share = len(parts[0]) / count
    return NeuronScores(
        {name: even[name] * share + odd[name] * (1 - share) for name in matrices},
        {name: torch.stack((even[name], odd[name])) for name in matrices},
    )
