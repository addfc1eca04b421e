"""Vectorised torch code of the perturbation norms: both weights in chunks, sums in float64."""

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks


def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> tuple[Tensor, Tensor]:
    """The two sums of squares of method.md (4), `(||(W0 - W1) M||^2, ||W0 M||^2)`, each 0-d fp32.

    Accumulated in float64. A column is summed before the mask is applied, so that a column that is
    not a candidate is read in storage order instead of gathered.
    """
    by_row = axis == "output"
    lines = mask.nonzero().squeeze(1) if by_row else torch.arange(base.shape[0], device=base.device)
    sums = torch.zeros((2, base.shape[1]), dtype=torch.float64, device=base.device)
    for some in chunks(lines.shape[0], chunk_length(16 * base.shape[1])):
        rows = lines[some] if by_row else some
        original = base[rows].double()
        sums[1].add_(original.square().sum(0))
        sums[0].add_(original.sub_(tuned[rows]).square_().sum(0))
    totals = (sums if by_row else sums[:, mask]).sum(1).float()
    return totals[0].clone(), totals[1].clone()
