"""Second moments of inputs and output gradients: curvature along one axis, and along both."""

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hcnr import ranks
from hcnr.curvature.groups import square_bytes
from hcnr.curvature.layouts import SharedInput
from hcnr.curvature.passes import Attempt, Passes, Progress, refuse_silent
from hcnr.curvature.sums import Key, Sums, measured
from hcnr.curvature.taps import Taps
from hcnr.data.tokens import TokenizedSet
from hcnr.kinds import Axis
from hcnr.models.linear import shape_of
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
        tokens: n; of an expert those that were routed to it.
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


def curvature(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    axis: Axis,
    token_budget: int,
    gradient_checkpointing: bool = False,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Second moments along the neuron axis over real tokens, method.md (5).

    Input axis: `(1/n) sum_t x_t x_t^T`, from forward passes alone; matrices that read one tensor
    share one result (the same object). Output axis: `(1/n) sum_t g_t g_t^T`. Of an expert n and
    the sum are about the tokens that were routed to it.

    Args:
        model: the model to take them at; unchanged afterwards.
        matrices: layers of `model` by name.
        data: tokenised samples.
        axis: neuron axis.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        gradient_checkpointing: recompute each block in backward instead of keeping it.
        progress: called after each micro-batch.

    Returns:
        Matrix name -> float32 `[d', d']`, symmetric, on the model's device.

    Raises:
        ModelError: a loss is not finite, one sample does not fit in memory, or a matrix took no
            part in the forward pass.
    """
    dim = 0 if axis == "output" else 1
    held = square_bytes(shape_of(layer)[dim] for layer in matrices.values())
    passes = Passes(model, data, token_budget, gradient_checkpointing, progress)

    def measure(attempt: Attempt, apart: Container[str]) -> Sums:
        sums = Sums.empty()

        def add(key: Key, shared: SharedInput, rows: Tensor) -> None:
            if key not in sums.grams:
                sums.grams[key] = _empty_gram(rows, None)
            sums.tokens[key] += shared.layout.tokens
            if shared.layout.tokens:
                gram_(sums.whole(key), shared.layout.real(rows))

        def on_input(name: str, shared: SharedInput, x: Tensor) -> None:
            sums.note(name, ("inputs", shared.leader), shared.layout.tokens)
            if name == shared.leader:
                add(("inputs", name), shared, x)

        def on_gradient(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
            sums.note(name, ("gradients", name), shared.layout.tokens)
            add(("gradients", name), shared, g)

        if axis == "input":
            with Taps(matrices, on_input=on_input, model=passes.model, apart=apart) as taps:
                attempt.forward(taps)
        else:
            with Taps(matrices, on_gradient=on_gradient, model=passes.model) as taps:
                attempt.backward(taps)
        return sums

    sums = measured(passes, measure, held)
    own = {key: sums.whole(key) for key in sums.grams}
    grams = ranks.summed("curvature", own, passes.model.device)
    for key, gram in grams.items():
        symmetrize_(gram).div_(max(sums.tokens[key], 1))
    refuse_silent(matrices, sums.sources)
    return {name: grams[sums.sources[name]] for name in matrices}


def second_moments(
    model: "PreTrainedModel",
    matrices: Mapping[str, nn.Linear],
    data: TokenizedSet,
    *,
    token_budget: int,
    block_size: int | None = None,
    gradient_checkpointing: bool = False,
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
        progress: called after each micro-batch.

    Returns:
        Matrix name -> its moments, on the model's device.

    Raises:
        ModelError: a loss is not finite, one sample does not fit in memory, or a matrix took no
            part in the forward pass.
    """

    def measure(passes: Attempt, apart: Container[str]) -> Sums:
        sums = Sums.empty()

        def add(key: Key, shared: SharedInput, rows: Tensor) -> None:
            rows = shared.layout.real(rows)
            if key not in sums.grams:
                sums.grams[key] = _empty_gram(rows, block_size)
            sums.tokens[key] += shared.layout.tokens
            if not shared.layout.tokens:
                return
            gram = sums.grams[key]
            if isinstance(gram, BlockDiagonal):
                gram.add_gram_(rows.float())
            else:
                gram_(gram, rows)

        def consume(name: str, shared: SharedInput, x: Tensor, g: Tensor) -> None:
            sums.note(name, ("inputs", shared.leader), shared.layout.tokens)
            add(("gradients", name), shared, g)
            if name == shared.leader:
                add(("inputs", name), shared, x)

        with Taps(matrices, on_gradient=consume, model=model, apart=apart) as taps:
            passes.backward(taps)
        return sums

    if not matrices:
        return {}
    passes = Passes(model, data, token_budget, gradient_checkpointing, progress)
    sums = measured(passes, measure)
    grams = _over_ranks(sums.grams, model.device)
    refuse_silent(matrices, sums.sources)
    for key, gram in grams.items():
        count = max(sums.tokens[key], 1)
        if isinstance(gram, BlockDiagonal):
            gram.div_(count)
        else:
            symmetrize_(gram).div_(count)
    return {
        name: Moments(
            grams[sums.sources[name]],
            grams["gradients", name],
            sums.read[name],
            sums.sources[name][1],
        )
        for name in matrices
    }


def _over_ranks(
    grams: "dict[Key, Tensor | BlockDiagonal]", device: torch.device
) -> "dict[Key, Tensor | BlockDiagonal]":
    """Sums of all processes; a matrix by its blocks is as many tensors as it has stacks."""
    if ranks.size() == 1:
        return grams
    stacks = {
        (key, isinstance(gram, BlockDiagonal), place): stack
        for key, gram in grams.items()
        for place, stack in enumerate(gram.stacks if isinstance(gram, BlockDiagonal) else (gram,))
    }
    summed: dict[Key, Tensor | BlockDiagonal] = {}
    for (key, blocks, _), stack in ranks.summed("curvature", stacks, device).items():
        known = summed.get(key)
        before = known.stacks if isinstance(known, BlockDiagonal) else ()
        summed[key] = BlockDiagonal((*before, stack)) if blocks else stack
    return summed


def _empty_gram(rows: Tensor, block_size: int | None) -> Tensor | BlockDiagonal:
    """Zeros to sum `rows^T rows` in; whole where one block would do."""
    width = rows.shape[1]
    like = rows.new_empty(0, dtype=torch.float32)
    if block_size is None or block_size >= width:
        return like.new_zeros(width, width)
    return BlockDiagonal.zeros(width, block_size, like)
