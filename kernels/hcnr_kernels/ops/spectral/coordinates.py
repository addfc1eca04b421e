"""A matrix cut by the directions of both axes: coordinates where they are explicit, else itself."""

from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.ops.spectral.modes import Modes


class Blocks(NamedTuple):
    """A matrix `[out, in]` cut by the explicit directions of both axes.

    Attributes:
        both: `[k_out, k_in]` coordinates on both axes.
        rows: `[k_out, in]`: coordinates on the output axis of what the input axis leaves out.
        columns: `[out, k_in]`: coordinates on the input axis of what the output axis leaves out.
        neither: `[out, in]`: what both leave out. A part is None where its axis leaves out nothing.
    """

    both: Tensor
    rows: Tensor | None
    columns: Tensor | None
    neither: Tensor | None


def analyse(matrix: Tensor, output: Modes, input: Modes, *, dual: bool) -> Blocks:
    """Cut `matrix [out, in]`.

    Args:
        matrix: A deviation, or a gradient.
        output: Directions of the output axis.
        input: Directions of the input axis.
        dual: Whether to find coordinates x with `matrix = U x V^T`, as a deviation needs, or
            products `U^T matrix V`, as a gradient does. The parts left out are scaled so that
            `synthesise` serves both.
    """
    left, right = (axis.dual if dual else axis.vectors for axis in (output, input))
    part, left_out = input.analyse(matrix.T, right)
    both, columns = output.analyse(part.T, left)
    if left_out is None:
        rows, neither = None, None
    else:
        rows, neither = output.analyse(left_out.T, left)
    if not dual:
        rows, columns, neither = (
            None if block is None else block * scale
            for block, scale in (
                (rows, input.outside),
                (columns, output.outside),
                (neither, output.outside * input.outside),
            )
        )
    return Blocks(both, rows, columns, neither)


def synthesise(blocks: Blocks, weight: Tensor, output: Modes, input: Modes) -> Tensor:
    """`U (weight * x) V^T [out, in]`, two products where both axes are dense.

    Args:
        blocks: Of `analyse`.
        weight: For every pair of directions, in the layout of `Modes.shares`.
        output: Directions of the output axis.
        input: Directions of the input axis.
    """
    k_out, k_in = blocks.both.shape
    top = input.synthesise((blocks.both * weight[:k_out, :k_in]).T).T
    if blocks.rows is not None:
        top = torch.addcmul(top, blocks.rows, weight[:k_out, k_in:])
    result = output.synthesise(top)
    if blocks.columns is not None:
        result += input.synthesise((blocks.columns * weight[k_out:, :k_in]).T).T
    if blocks.neither is not None:
        result.addcmul_(blocks.neither, weight[k_out:, k_in:])
    return result


def energies(blocks: Blocks, output: Modes, input: Modes) -> Tensor:
    """`Y^2` of method.md (10) for every pair of directions, in the layout of `Modes.shares`.

    A direction left out stands for all of them, so its entry is their sum. The total is
    `tr(G_h matrix A_h matrix^T)`.

    Args:
        blocks: Of `analyse(..., dual=True)`.
        output: Directions of the output axis.
        input: Directions of the input axis.
    """
    k_out, k_in = blocks.both.shape
    scales = [axis.honesty.double() for axis in (output, input)]
    squares = torch.zeros(
        k_out + (output.span is not None),
        k_in + (input.span is not None),
        dtype=torch.float64,
        device=blocks.both.device,
    )
    torch.mul(blocks.both, blocks.both, out=squares[:k_out, :k_in])
    squares[:k_out, :k_in] *= scales[0][:, None] * scales[1]
    if blocks.rows is not None:
        squares[:k_out, k_in] = scales[0] * input.damping * _squares(blocks.rows, 1)
    if blocks.columns is not None:
        squares[k_out, :k_in] = scales[1] * output.damping * _squares(blocks.columns, 0)
    if blocks.neither is not None:
        squares[k_out, k_in] = output.damping * input.damping * _squares(blocks.neither, (0, 1))
    return squares


def _squares(block: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    return torch.linalg.vector_norm(block, dim=dim, dtype=torch.float64).square()
