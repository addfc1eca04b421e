"""Fisher merging by neuron: a formula on two weights."""

import torch
from torch import Tensor

from hcnr.errors import StatisticsError


def fisher_merge(
    base: Tensor, tuned: Tensor, honesty: Tensor, task: Tensor, *, axis: str
) -> Tensor:
    """Fisher merging by neuron: `W_k = (s_hon_k W0_k + s_task_k W1_k) / (s_hon_k + s_task_k)`.

    Args:
        base: W0 `[out, in]`.
        tuned: W1 `[out, in]`.
        honesty: Fisher scores of the neurons on honesty data, `[d']`, method.md (1).
        task: the same on task data, times its weight.
        axis: a neuron is a row (`output`) or a column (`input`).

    Returns:
        `[out, in]` in tuned's dtype, computed in float64; where both scores are 0, tuned.
    """
    if honesty.shape != (base.shape[0 if axis == "output" else 1],):
        raise StatisticsError(f"{len(honesty)} scores for a matrix {list(base.shape)}")
    total = honesty.double() + task.double()
    share = torch.where(total > 0, honesty.double() / total, 0)
    share = share[:, None] if axis == "output" else share[None]
    merged = tuned.double() + share * (base.double() - tuned.double())
    return torch.where(share == 0, tuned, merged.to(tuned.dtype))
