"""A block-diagonal matrix by its blocks; an ordinary matrix is one block."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.ops.inverse.blocks import split_blocks


class BlockDiagonal(NamedTuple):
    """A square matrix `[d, d]` that is zero outside blocks of neighbours along its diagonal.

    All blocks are alike in size but the last, which may be smaller: it is not padded, as those of
    `inverse.blocks` are, because padding would add directions that no neuron has.

    Attributes:
        stacks: `[m, b, b]` the m blocks of size b, and `[1, r, r]` the last one if it is smaller.
    """

    stacks: tuple[Tensor, ...]

    @classmethod
    def cut(cls, matrix: Tensor, block_size: int | None = None) -> "BlockDiagonal":
        """Keep the blocks of `matrix [d, d]`, without a block size all of it, as a view.

        Args:
            matrix: Square.
            block_size: b >= 1.
        """
        width = len(matrix)
        if block_size is None or block_size >= width:
            return cls((matrix[None],))
        edge = width - width % block_size
        full_blocks = split_blocks(matrix[None, :edge, :edge], block_size)[0]
        return cls((full_blocks, matrix[None, edge:, edge:]) if edge < width else (full_blocks,))

    @classmethod
    def zeros(cls, width: int, block_size: int | None, like: Tensor) -> "BlockDiagonal":
        """All zero, `[width, width]`, of the dtype and on the device of `like`."""
        size = width if block_size is None else min(block_size, width)
        count, remainder = divmod(width, size)
        stacks = like.new_zeros(count, size, size), like.new_zeros(1, remainder, remainder)
        return cls(stacks if remainder else stacks[:1])

    @property
    def width(self) -> int:
        """D."""
        return sum(len(stack) * stack.shape[1] for stack in self.stacks)

    @property
    def block_size(self) -> int:
        """B of all blocks but the last, which may be smaller."""
        return self.stacks[0].shape[1]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of `stacks`."""
        return [tuple(stack.shape) for stack in self.stacks]

    @property
    def dtype(self) -> torch.dtype:
        """Of every block."""
        return self.stacks[0].dtype

    @property
    def device(self) -> torch.device:
        """Of every block."""
        return self.stacks[0].device

    def to(self, device: torch.device) -> "BlockDiagonal":
        """The same on a device."""
        return self.map(lambda stack: stack.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> "BlockDiagonal":
        """The same with every stack changed."""
        return BlockDiagonal(tuple(change(stack) for stack in self.stacks))

    def diagonal(self) -> Tensor:
        """`[d]`."""
        return torch.cat([s.diagonal(dim1=1, dim2=2).flatten() for s in self.stacks])

    def dense(self) -> Tensor:
        """`[d, d]` with its zeros."""
        if self.shapes == [(1, self.width, self.width)]:
            return self.stacks[0][0]
        return torch.block_diag(*(block for stack in self.stacks for block in stack))

    def add_gram_(self, rows: Tensor) -> "BlockDiagonal":
        """Add the blocks of `rows^T rows`, `rows [n, d]`, in place; n d b multiplications."""
        for stack, part in self._parts(rows.mT):
            stack.baddbmm_(part, part.mT)
        return self

    def div_(self, divisor: float) -> "BlockDiagonal":
        """Divide in place."""
        for stack in self.stacks:
            stack.div_(divisor)
        return self

    def times(self, right: Tensor) -> Tensor:
        """The product with `right [d, c]`."""
        return _joined([_product(stack, part) for stack, part in self._parts(right)])

    def transposed_times(self, right: Tensor) -> Tensor:
        """The product of the transpose with `right [d, c]`."""
        return _joined([_product(stack.mT, part) for stack, part in self._parts(right)])

    def _parts(self, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Stacks `[m, b, b]` with the rows `[m, b, c]` of `right [d, c]` that they meet."""
        start = 0
        for stack in self.stacks:
            count, size, _ = stack.shape
            yield stack, right[start : start + count * size].unflatten(0, (count, size))
            start += count * size


def _product(stack: Tensor, part: Tensor) -> Tensor:
    # One block is a plain product: what is computed does not depend on how it is held.
    product = (stack[0] @ part[0])[None] if len(stack) == 1 else stack @ part
    return product.flatten(0, 1)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
