"""The objective (8) of a compensated matrix and of the same one without, from half a product."""

from typing import NamedTuple

import torch
from torch import Tensor

from hcnr_kernels.checks import Axis
from hcnr_kernels.chunks import chunk_length, chunks
from hcnr_kernels.library import exact_products

PANELS = 8
"""Columns of `E^T E` are formed in so many panels, or more: the panel's square on the diagonal is
the only one of which both triangles are formed."""


class Objectives(NamedTuple):
    """Method.md (8), each 0-d float64.

    Attributes:
        none: of the deviation without compensation, zero on the restored neurons.
        compensated: of the deviation itself.
    """

    none: Tensor
    compensated: Tensor


@torch.no_grad()
def objectives(deviation: Tensor, mask: Tensor, hessian: Tensor, *, axis: Axis) -> Objectives:
    """Both objectives of method.md (8) that a report gives, with and without compensation.

    `tr(E H E^T) = sum_ij H_ij (E^T E)_ij`, and without compensation E has the same task neurons and
    no others: the sum over those i and j alone. `E^T E` is symmetric, so its lower triangle is
    enough: `lines d^2` operations and an eighth more, where two products with H take four times as
    many.

    Args:
        deviation: E `[out, in]`, on the neurons outside `mask` the fine-tuning change itself.
        mask: `[d']` bool, true on the restored neurons.
        hessian: `[d', d']` fp32 or float64 symmetric, as measured, not damped.
        axis: The neuron axis.

    Returns:
        Two sums, products in the dtype of `hessian`, sums of them in float64.
    """
    rows = (deviation if axis == "output" else deviation.T).to(hessian.dtype)
    with exact_products(deviation.device):
        return summed(rows, ~mask, hessian)


def summed(rows: Tensor, task: Tensor, hessian: Tensor) -> Objectives:
    """`objectives` of `rows [d', lines]`, neurons first, with the task neurons `task [d']`."""
    width = hessian.shape[0]
    totals = torch.zeros(2, dtype=torch.float64, device=rows.device)
    size = min(chunk_length(hessian.element_size() * width), -(-width // PANELS))
    kept = task.to(hessian.dtype)
    for panel in chunks(width, max(size, 1)):
        first, last = panel.start, panel.stop
        summands = (rows[first:] @ rows[panel].T).mul_(hessian[first:, panel])
        summands[last - first :].mul_(2)  # for the other triangle
        totals[1] += summands.sum(dtype=torch.float64)
        totals[0] += kept[first:].double() @ summands.mul_(kept[panel]).sum(1, dtype=torch.float64)
    return Objectives(totals[0].clone(), totals[1].clone())
