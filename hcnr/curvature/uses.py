"""Matrices that a forward pass uses several times: their rows wait for each other."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hcnr.curvature.layouts import RoutedLayout, SharedInput, Span, TokenLayout
from hcnr.curvature.taps import more_gradients


class Joined(NamedTuple):
    """Rows of several uses of a matrix in one forward pass, sample after sample.

    Attributes:
        x: inputs `[n, in]`.
        g: output gradients `[n, out]`.
        cu_seqlens: int32 `[B + 1]`.
        lengths: rows of each sample, all its uses together.
    """

    x: Tensor
    g: Tensor
    cu_seqlens: Tensor
    lengths: list[int]

    @property
    def samples(self) -> int:
        """B."""
        return len(self.lengths)

    def span(self, first: int, last: int) -> Span:
        """The rows of samples `first` to `last`, that one left out."""
        rows = slice(sum(self.lengths[:first]), sum(self.lengths[:last]))
        return Span.between(rows, slice(first, last), self.cu_seqlens, None, self.lengths)


class Use(NamedTuple):
    """What a matrix read and what its output's gradient was, in one of its uses."""

    layout: TokenLayout | RoutedLayout
    x: Tensor
    g: Tensor


def joined(uses: Sequence[Use]) -> Joined:
    """Put the rows of several uses together, padding left out.

    A weight's gradient of a sample is the sum over its uses: that of one product over all rows.
    """
    owners = torch.cat([use.layout.owners() for use in uses])
    order = owners.argsort(stable=True)
    x, g = (
        torch.cat([use.layout.real(rows) for use, rows in zip(uses, part, strict=True)])[order]
        for part in ([use.x for use in uses], [use.g for use in uses])
    )
    lengths = torch.bincount(owners, minlength=uses[0].layout.samples)
    offsets = nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Joined(x, g, offsets, lengths.tolist())


class Uses:
    """Rows of the uses of each matrix, until backward has met the last one of a forward pass.

    What is squared per sample needs them together: the square of a sum is not the sum of squares.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._kept: dict[tuple[str, int], list[Use]] = {}
        self._done: dict[str, int] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._done.clear()

    def once(self, name: str, shared: SharedInput) -> None:
        """Note the one use that a matrix has in a forward pass.

        Raises:
            ModelError: it had one before.
        """
        self._check(name, shared)
        self._done[name] = shared.forward

    def add(self, name: str, shared: SharedInput, x: Tensor, g: Tensor) -> list[Use]:
        """Take what backward has met of one use.

        Args:
            name: the matrix.
            shared: as a `GradientConsumer` gets it.
            x: rows of its input.
            g: rows of its output's gradient.

        Returns:
            All uses of the forward pass where this was the last one; else nothing.

        Raises:
            ModelError: there are more than the forward pass had.
        """
        self._check(name, shared)
        key = name, shared.forward
        kept = self._kept.setdefault(key, [])
        kept.append(Use(shared.layout, x, g))
        if len(kept) < shared.uses[name]:
            return []
        self._done[name] = shared.forward
        return self._kept.pop(key)

    def rest(self) -> Iterator[tuple[str, int, list[Use]]]:
        """What waits for uses that got no gradient, once backward is over; nothing waits then.

        With the matrix and the number of the forward pass.
        """
        for name, forward in tuple(self._kept):
            self._done[name] = forward
            yield name, forward, self._kept.pop((name, forward))

    def _check(self, name: str, shared: SharedInput) -> None:
        if self._done.get(name) == shared.forward:
            raise more_gradients(name)
