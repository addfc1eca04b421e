"""Fisher scores of neurons, method.md (1), on one data set."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.fisher import NeuronFisher
from hcnr.curvature.passes import Attempt, Passes, Progress
from hcnr.data.batches import Batch, part_of
from hcnr.data.tokens import TokenizedSet
from hcnr.kinds import Axis

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NeuronScores(NamedTuple):
    """Fisher scores of one data set, on the CPU.

    `mean[matrix]` is float32 `[d']`, method.md (1). `halves[matrix]` is float32 `[2, d']`, the
    same over two halves of the samples, see `part_of`: `mean` is their weighted mean. A single
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
    parts = min(2, count)

    def measure(passes: Attempt) -> NeuronFisher:
        fisher = NeuronFisher(model, matrices, axis=axis, parts=parts)

        def batches() -> Iterator[Batch]:
            for batch in passes.batches(parts):
                owners = [part_of(index, parts) for index in batch.indices]
                fisher.part_sizes = [owners.count(part) for part in range(parts)]
                yield batch

        with fisher:
            passes.backward(batches=batches())
        return fisher

    passes = Passes(model, data, token_budget, gradient_checkpointing, progress)
    fisher = passes.run(measure).over_ranks()
    # Of all samples, also where one reaches no matrix.
    owners = [part_of(index, parts) for index in range(count)]
    sizes = [owners.count(part) for part in range(parts)]
    by_part = [
        {name: scores.cpu() for name, scores in fisher.scores_of(part, size).items()}
        for part, size in enumerate(sizes)
    ]
    if len(by_part) == 1:
        return NeuronScores(by_part[0], {})
    first, second = by_part
    share = sizes[0] / count
    return NeuronScores(
        {name: first[name] * share + second[name] * (1 - share) for name in matrices},
        {name: torch.stack((first[name], second[name])) for name in matrices},
    )
