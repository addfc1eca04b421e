"""Passes for two-sided repair: second moments of both axes, and the mean weight gradient.

Both read inputs and output gradients off the same taps as the scores do, in one forward and one
backward per micro-batch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.passes import (
    Progress,
    finite_losses,
    micro_batches,
    prepared,
    refuse_silent,
    shrinking,
    tell,
)
from hcnr.curvature.taps import GradientConsumer, SharedInput, Taps, TokenLayout
from hcnr.data.tokens import TokenizedSet
from hcnr_kernels import BlockDiagonal, RankedGram, gram_, symmetrize_
from hcnr_kernels.ops.spectral import SecondMoment

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Moments(NamedTuple):
    """Second moments of one matrix over the real tokens of a data set.

    Attributes:
        inputs: A = `(1/n) sum_t x_t x_t^T`, float32 `[in, in]`, whole or by its diagonal blocks;
            one object for all matrices that read the same tensor.
        gradients: G = `(1/n) sum_t g_t g_t^T`, float32 `[out, out]`, g the gradient of the
            sample's loss by the output; likewise.
        tokens: n.
        leader: the first matrix that reads the same inputs.
    """

    inputs: Tensor | BlockDiagonal
    gradients: Tensor | BlockDiagonal
    tokens: int
    leader: str

    def to(self, device: torch.device) -> "Moments":
        """The same on a device."""
        return self._replace(inputs=self.inputs.to(device), gradients=self.gradients.to(device))

    def dense(self) -> tuple[Tensor, Tensor]:
        """A and G as whole matrices, zero outside blocks."""
        inputs, gradients = (
            one.dense() if isinstance(one, BlockDiagonal) else one for one in self[:2]
        )
        return inputs, gradients

    @property
    def pair(self) -> tuple[SecondMoment, SecondMoment]:
        """(A, G) as `spectral_basis` takes them, with their rank where tokens are few."""
        return self._ranked(self.inputs), self._ranked(self.gradients)

    def _ranked(self, gram: Tensor | BlockDiagonal) -> SecondMoment:
        if isinstance(gram, BlockDiagonal):
            return gram
        return RankedGram(gram, self.tokens) if self.tokens < gram.shape[0] else gram


class MeanGradient(NamedTuple):
    """Mean over a data set's samples.

    Attributes:
        loss: of the samples' losses.
        weights: of their weight gradients, matrix -> float32 `[out, in]`.
    """

    loss: float
    weights: dict[str, Tensor]


def second_moments(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    token_budget: int,
    block_size: int | None = None,
    gradient_checkpointing: bool = False,
    padding_side: Literal["left", "right"] = "right",
    progress: Progress | None = None,
) -> dict[str, Moments]:
    """Second moments of inputs and output gradients, the two Kronecker factors of method.md (10).

    Args:
        model: the model to take them at; unchanged afterwards.
        matrices: layers of `model` by name.
        data: tokenised samples.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        block_size: neurons of a diagonal block, all that is summed with one: a token then costs
            `b (in + out)` operations instead of `in^2 + out^2`; None sums whole matrices.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        padding_side: where short samples are padded.
        progress: called after each micro-batch.

    Returns:
        Matrix name -> its moments, on the model's device.

    Raises:
        ModelError: a loss is not finite, one sample does not fit in memory, or a matrix took no
            part in the forward pass.
    """

    def run(budget: int) -> dict[str, Moments]:
        grams: dict[tuple[str, str], Tensor | BlockDiagonal] = {}
        leaders: dict[str, str] = {}

        def add(key: tuple[str, str], shared: SharedInput, rows: Tensor) -> None:
            rows = shared.layout.real(rows)
            if key not in grams:
                grams[key] = _empty_gram(rows, block_size)
            gram = grams[key]
            if isinstance(gram, BlockDiagonal):
                gram.add_gram_(rows.float())
            else:
                gram_(gram, rows)

        def consume(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
            leaders[name] = shared.leader
            add(("gradients", name), shared, g)
            if name == shared.leader:
                add(("inputs", name), shared, x)

        tokens, _ = _backward(model, matrices, data, consume, budget, padding_side, progress)
        refuse_silent(matrices, leaders)
        for gram in grams.values():
            if isinstance(gram, BlockDiagonal):
                gram.div_(tokens)
            else:
                symmetrize_(gram).div_(tokens)
        return {
            name: Moments(
                grams["inputs", leaders[name]], grams["gradients", name], tokens, leaders[name]
            )
            for name in matrices
        }

    if not matrices:
        return {}
    with prepared(model, gradient_checkpointing=gradient_checkpointing):
        return shrinking(run, token_budget, data)


def _empty_gram(rows: Tensor, block_size: int | None) -> Tensor | BlockDiagonal:
    """Zeros to sum `rows^T rows` in; whole where one block would do."""
    width = rows.shape[1]
    like = rows.new_empty(0, dtype=torch.float32)
    if block_size is None or block_size >= width:
        return like.new_zeros(width, width)
    return BlockDiagonal.zeros(width, block_size, like)


def mean_gradient(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    token_budget: int,
    gradient_checkpointing: bool = False,
    padding_side: Literal["left", "right"] = "right",
    progress: Progress | None = None,
) -> MeanGradient:
    """Mean loss and mean weight gradient `(1/N) sum_b G_b` of method.md 2, the step's direction.

    The one weight gradient that hcnr forms, in float32 whatever the model's dtype.

    Args:
        model: the model to take it at; unchanged afterwards.
        matrices: layers of `model` by name.
        data: tokenised samples.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        padding_side: where short samples are padded.
        progress: called after each micro-batch.

    Returns:
        The mean, on the model's device.

    Raises:
        ModelError: as `second_moments`.
    """

    def run(budget: int) -> MeanGradient:
        found: dict[str, Tensor] = {}

        def consume(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
            x, g = (shared.layout.real(rows).float() for rows in (x, g))
            if name in found:
                found[name].addmm_(g.T, x)
            else:
                found[name] = g.T @ x

        _, loss = _backward(model, matrices, data, consume, budget, padding_side, progress)
        refuse_silent(matrices, found)
        for gradient in found.values():
            gradient.div_(len(data))
        return MeanGradient(loss, {name: found[name] for name in matrices})

    with prepared(model, gradient_checkpointing=gradient_checkpointing):
        return shrinking(run, token_budget, data)


def mean_loss(
    model: "PreTrainedModel",
    data: TokenizedSet,
    *,
    token_budget: int,
    padding_side: Literal["left", "right"] = "right",
) -> float:
    """Mean over the samples of their losses, method.md 1, from forward passes alone.

    Raises:
        ModelError: a loss is not finite, or one sample does not fit in memory.
    """

    @torch.no_grad()
    def run(budget: int) -> float:
        everything = range(len(data))
        batches = micro_batches(model, data, everything, budget, padding_side)
        return sum(float(finite_losses(model, batch).sum()) for batch in batches) / len(data)

    with prepared(model):
        return shrinking(run, token_budget, data)


def _backward(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    consume: GradientConsumer,
    budget: int,
    padding_side: Literal["left", "right"],
    progress: Progress | None,
) -> tuple[int, float]:
    """One forward and backward over all samples; returns the real tokens and the mean loss."""
    tokens = done = 0
    total = 0.0
    with Taps(matrices, on_gradient=consume) as taps:
        for batch in micro_batches(model, data, range(len(data)), budget, padding_side):
            layout = TokenLayout(batch.attention_mask)
            taps.begin(layout)
            losses = finite_losses(model, batch)
            taps.end()
            losses.sum().backward()
            total += float(losses.detach().sum())
            tokens += layout.tokens
            done += len(batch)
            tell(progress, done, data)
    return tokens, total / len(data)
