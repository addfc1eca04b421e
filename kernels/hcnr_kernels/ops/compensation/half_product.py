"""Both objectives of a report (8), in torch: `objectives`, from half of one symmetric product."""

import torch
from torch import Tensor

from hcnr_kernels.chunks import chunk_length, chunks

PANELS = 8
"""Columns of `E^T E` are formed in so many panels, or more: the panel's square on the diagonal is
the only one of which both triangles are formed."""


def objectives(
    deviation: Tensor, mask: Tensor, hessian: Tensor, axis: str
) -> tuple[Tensor, Tensor]:
    """Method.md (8) without compensation and with it, 0-d float64 each.

    `tr(E H E^T) = sum_ij H_ij (E^T E)_ij`, and without compensation E has the same task neurons and
    no others: the sum over those i and j alone. `E^T E` is symmetric, so its lower triangle is
    enough: `lines d^2` operations and an eighth more, where two products with H take four times as
    many. Products in the dtype of `hessian`, sums of them in float64.
    """
    rows = (deviation if axis == "output" else deviation.T).to(hessian.dtype)
    width = hessian.shape[0]
    totals = torch.zeros(2, dtype=torch.float64, device=rows.device)
    size = min(chunk_length(hessian.element_size() * width), -(-width // PANELS))
    kept = mask.logical_not().to(hessian.dtype)
    for panel in chunks(width, max(size, 1)):
        first, last = panel.start, panel.stop
        summands = (rows[first:] @ rows[panel].T).mul_(hessian[first:, panel])
        summands[last - first :].mul_(2)  # for the other triangle
        totals[1] += summands.sum(dtype=torch.float64)
        totals[0] += kept[first:].double() @ summands.mul_(kept[panel]).sum(1, dtype=torch.float64)
    return totals[0].clone(), totals[1].clone()
