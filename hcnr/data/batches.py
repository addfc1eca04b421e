"""Tokenised samples -> padded micro-batches that say which tokens are real and which carry loss."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal
from zlib import crc32

import torch
from torch import Tensor

from hcnr.data.tokens import TokenizedSample
from hcnr.errors import ConfigError, DataError


@dataclass(frozen=True)
class Batch:
    """B samples padded to T tokens, the longest sample's length.

    Attributes:
        input_ids: `[B, T]` int64.
        attention_mask: `[B, T]` int64, 1 on real tokens.
        position_ids: `[B, T]` int64, counted over real tokens, so the padding side is immaterial.
        response_mask: `[B, T]` bool, true on tokens that carry loss (each is predicted from the
            position before it, which is always a real token of the same sample).
        cu_seqlens: `[B + 1]` int32; sample b owns rows `cu_seqlens[b]:cu_seqlens[b + 1]` of
            `values[attention_mask.bool()]`.
        indices: B integers on the host, which samples of the set these are.
        lengths: `[B]` int64, real tokens of each.
        left_padded: whether padding stands before real tokens. Elsewhere a model counts them
            rightly by itself, and in its own way: RoBERTa's positions begin behind its padding's.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    response_mask: Tensor
    cu_seqlens: Tensor
    indices: tuple[int, ...]
    lengths: Tensor
    left_padded: bool = False

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with every tensor on `device`."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


def part_of(index: int, parts: int) -> int:
    """The part that a sample belongs to where scores are also summed part by part.

    Of two neighbours each half gets one; which, is a matter of a checksum. So samples that take
    turns, such as refusals and answers, are in both halves alike, which they would not be by even
    and odd index.

    Args:
        index: of the sample, from 0.
        parts: one, which takes all, or two.
    """
    return (index + crc32((index // 2).to_bytes(8, "little"))) % parts


def plan_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group samples into micro-batches, longest first.

    Longest first makes an out-of-memory error come at once, and pads least.

    Args:
        lengths: tokens of each sample, each at least 1.
        token_budget: padded tokens (B times the longest of the batch) a batch may have; a sample
            that is longer by itself is a batch of its own.

    Returns:
        Sample indices, every one exactly once, by falling length (ties by index).

    Raises:
        ConfigError: `token_budget` is below 1.
        DataError: a length is below 1.
    """
    if token_budget < 1:
        raise ConfigError(f"token_budget is {token_budget}, expected at least 1")
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if order and lengths[order[-1]] < 1:
        raise DataError(f"sample {order[-1]} has no tokens, expected at least 1")
    batches, start = [], 0
    while start < len(order):
        size = max(1, token_budget // lengths[order[start]])
        batches.append(order[start : start + size])
        start += size
    return batches


def collate(
    samples: Sequence[TokenizedSample],
    indices: Sequence[int],
    *,
    pad_token_id: int,
    padding_side: Literal["left", "right"] = "right",
) -> Batch:
    """Pad some samples into one batch, on the CPU.

    Args:
        samples: the whole set.
        indices: which of them, in the order of the batch's rows.
        pad_token_id: any valid token id: padding is masked and carries no loss.
        padding_side: where padding goes.

    Raises:
        DataError: no indices, or one that is not in the set.
        ConfigError: `padding_side` is neither left nor right.
    """
    if padding_side not in ("left", "right"):
        raise ConfigError(f"padding_side is {padding_side!r}, expected left or right")
    if not indices:
        raise DataError("a batch has no samples, expected at least one")
    for index in indices:
        if not 0 <= index < len(samples):
            raise DataError(f"a batch asks for sample {index} of a set of {len(samples)}")
    chosen = [samples[index] for index in indices]
    lengths = torch.tensor([len(sample) for sample in chosen])
    shape = (len(chosen), int(lengths.max()))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    response_mask = torch.zeros(shape, dtype=torch.bool)
    for row, sample in enumerate(chosen):
        first = shape[1] - len(sample) if padding_side == "left" else 0
        last = first + len(sample)
        input_ids[row, first:last] = torch.tensor(sample.input_ids)
        attention_mask[row, first:last] = 1
        response_mask[row, first + sample.response_start : last] = True
    cu_seqlens = torch.zeros(len(chosen) + 1, dtype=torch.int32)
    cu_seqlens[1:] = lengths.cumsum(0)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        # Padding repeats its neighbour's position, which every model has an embedding for.
        position_ids=(attention_mask.cumsum(1) - 1).clamp(min=0),
        response_mask=response_mask,
        cu_seqlens=cu_seqlens,
        indices=tuple(indices),
        lengths=lengths,
        left_padded=padding_side == "left" and bool((lengths < shape[1]).any()),
    )
