"""A tensor of which some rows are another's: written from where both lie, never put together."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from hcnr.checkpoint.fingerprints import byte_view


@dataclass(frozen=True, eq=False)
class Spliced:
    """`other`'s rows where the mask says so, `own`'s elsewhere.

    Attributes:
        own: `[rows, ...]`, on the CPU.
        other: of the same shape and dtype, on the CPU.
        mask: bool `[rows]`, on the CPU.
    """

    own: torch.Tensor
    other: torch.Tensor
    mask: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of both."""
        return self.own.dtype

    @property
    def shape(self) -> torch.Size:
        """Shape of both."""
        return self.own.shape

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of the whole, in order: runs of rows, each where it lies."""
        sources = byte_view(self.own), byte_view(self.other)
        rows = self.mask.shape[0]
        width = len(sources[0]) // rows if rows else 0
        turns = (self.mask[1:] != self.mask[:-1]).nonzero().squeeze(1) + 1
        edges = [0, *turns.tolist(), rows]
        which = bool(self.mask[0]) if rows else False
        for begin, end in itertools.pairwise(edges):
            yield sources[which][begin * width : end * width]
            which = not which
