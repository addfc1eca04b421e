"""Offsets and lengths of packed samples: their kind, and their values read on the host."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from hcnr_kernels.checks import beside, describe, refuse


def check_offsets(cu_seqlens: Tensor, seqused: Tensor | None, other: Tensor) -> None:
    """Refuse offsets, or lengths in padding, of the wrong kind; their values are not read."""
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype != torch.int32 or cu_seqlens.shape[0] < 1:
        refuse("cu_seqlens", "an int32 tensor [samples + 1]", describe(cu_seqlens))
    beside("cu_seqlens", cu_seqlens, other)
    if seqused is None:
        if cu_seqlens.shape[0] == 1 and other.shape[0] > 0:
            refuse("cu_seqlens", f"of samples that own the {other.shape[0]} packed tokens", "none")
        return
    samples = cu_seqlens.shape[0] - 1
    if seqused.dim() != 1 or seqused.dtype != torch.int32 or seqused.shape[0] != samples:
        refuse("seqused", f"an int32 tensor [{samples}]", describe(seqused))
    beside("seqused", seqused, other)


def sample_bounds(
    cu_seqlens: Tensor, tokens: int, seqused: Tensor | None = None
) -> list[tuple[int, int]]:
    """First and last (exclusive) row of each sample; the values of the offsets checked."""
    offsets: list[int] = cu_seqlens.tolist()
    rising = all(low <= high for low, high in itertools.pairwise(offsets))
    bounds = list(itertools.pairwise(offsets))
    if seqused is None:
        if offsets[0] != 0 or offsets[-1] != tokens or not rising:
            expected = f"non-decreasing from 0 to the {tokens} packed tokens"
            refuse("cu_seqlens", expected, _shortened(offsets))
        return bounds
    if offsets[0] < 0 or offsets[-1] > tokens or not rising:
        refuse("cu_seqlens", f"non-decreasing between 0 and {tokens} rows", _shortened(offsets))
    used: list[int] = seqused.tolist()
    spans = zip(bounds, used, strict=True)
    if not all(0 <= rows <= stop - start for (start, stop), rows in spans):
        refuse("seqused", "from 0 to the rows between a sample's offsets", _shortened(used))
    return [(start, start + rows) for (start, _), rows in zip(bounds, used, strict=True)]


def _shortened(values: Sequence[int]) -> str:
    return str(values) if len(values) <= 8 else f"{values[:4]} ... {values[-4:]}"


def longest(bounds: Sequence[tuple[int, int]]) -> int:
    """Tokens of the longest sample."""
    return max((stop - start for start, stop in bounds), default=0)


def at_least_longest(bounds: Sequence[tuple[int, int]], limit: int, argument: str) -> None:
    """Refuse a sample with more than `limit` tokens."""
    length = longest(bounds)
    if length > limit:
        refuse(argument, f"at least the longest sample, {length} tokens", limit)
