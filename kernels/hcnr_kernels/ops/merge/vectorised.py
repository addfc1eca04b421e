"""Vectorised torch code of the merge: restored neurons in chunks."""

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks


def merge(
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    deviation: Tensor | None,
    axis: str,
    dtype: torch.dtype,
) -> Tensor:
    """Final weights of method.md (14): `W0 + E` in fp32 on restored neurons, tuned elsewhere.

    Without a deviation base is copied and not added to zero: `-0.0 + 0.0` is `+0.0`.
    """
    merged = tuned.to(dtype, copy=True)
    by_row = axis == "output"
    lines = mask.nonzero().squeeze(1) if by_row else torch.arange(base.shape[0], device=base.device)
    for chunk in chunks(lines.shape[0], chunk_length(16 * base.shape[1])):
        rows = lines[chunk] if by_row else chunk
        restored = base[chunk] if isinstance(rows, slice) else base.index_select(0, rows)
        if deviation is not None:
            restored = restored.float() + deviation[rows]
        restored = restored.to(dtype)
        if isinstance(rows, slice):
            torch.where(mask, restored, merged[rows], out=merged[rows])
        else:
            merged.index_copy_(0, rows, restored)
    return merged
