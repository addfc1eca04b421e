"""The slow, obvious twin of every operator: same signature, float64 throughout.

Python loops over samples and neurons, dense solves; shares no formula with the operators. What
`spectral_basis`, which is no operator, must equal is `kronecker` in `tests/support/spectra.py`.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hcnr_kernels.ops.compensation import Compensation
from hcnr_kernels.ops.inverse import InverseHessian
from hcnr_kernels.ops.inverse.ladder import DAMPING_LADDER


def _spans(cu_seqlens: Tensor, seqused: Tensor | None) -> Iterator[slice]:
    """Rows of every sample."""
    for b, start in enumerate(cu_seqlens[:-1].tolist()):
        used = cu_seqlens[b + 1] - start if seqused is None else seqused[b]
        yield slice(start, start + int(used))


def _gradients(
    x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None
) -> Iterator[Tensor]:
    """`G_b = sum_t g_t x_t^T [out, in]` of every sample."""
    for rows in _spans(cu_seqlens, seqused):
        yield g[rows].double().T @ x[rows].double()


def _quadratic(
    own: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, token_gram: Tensor
) -> Iterator[Tensor]:
    """`own_b[:, k]^T K_b own_b[:, k]` for every neuron k, of every sample."""
    for rows in _spans(cu_seqlens, seqused):
        part = own[rows].double()
        gram = token_gram[..., rows, : len(part)].double()
        gram = gram if gram.dim() == 2 else gram.sum(0)
        yield torch.stack([part[:, k] @ gram @ part[:, k] for k in range(part.shape[1])])


def fisher_output_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
    form: str = "auto",
    token_gram: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Method.md (1), output axis."""
    if token_gram is not None:
        return scores.add_(sum(_quadratic(g, cu_seqlens, seqused, token_gram), torch.zeros(())))
    for gradient in _gradients(x, g, cu_seqlens, seqused):
        scores += gradient.square().sum(1)
    return scores


def fisher_input_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
    form: str = "auto",
    token_gram: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Method.md (1), input axis."""
    if token_gram is not None:
        return scores.add_(sum(_quadratic(x, cu_seqlens, seqused, token_gram), torch.zeros(())))
    for gradient in _gradients(x, g, cu_seqlens, seqused):
        scores += gradient.square().sum(0)
    return scores


def fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    *,
    seqused: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Method.md (1), both axes."""
    for gradient in _gradients(x, g, cu_seqlens, seqused):
        output_scores += gradient.square().sum(1)
        input_scores += gradient.square().sum(0)
    return output_scores, input_scores


def fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, *, seqused: Tensor | None = None
) -> Tensor:
    """The element-wise square of every sample's gradient."""
    for gradient in _gradients(x, g, cu_seqlens, seqused):
        scores += gradient.square()
    return scores


def token_gram(
    x: Tensor, cu_seqlens: Tensor, *, max_seqlen: int, seqused: Tensor | None = None
) -> Tensor:
    """`X_b X_b^T`, one row per token, padded with zeros."""
    grams = torch.zeros(len(x), max_seqlen, dtype=torch.float64)
    for rows in _spans(cu_seqlens, seqused):
        part = x[rows].double()
        grams[rows, : len(part)] = part @ part.T
    return grams


def split_token_gram(
    x: Tensor, cu_seqlens: Tensor, *, max_seqlen: int, seqused: Tensor | None = None
) -> Tensor:
    """Twice the strict lower triangle of `X_b X_b^T`, and its diagonal; the second plane is 0."""
    planes = torch.zeros(2, len(x), max_seqlen, dtype=torch.float64)
    for rows in _spans(cu_seqlens, seqused):
        part = x[rows].double()
        for token in range(len(part)):
            products = part[: token + 1] @ part[token]
            products[:token] *= 2
            planes[0, rows.start + token, : token + 1] = products
    return planes


def gram_(gram: Tensor, x: Tensor) -> Tensor:
    """Method.md (5) without the 1/n; the strict upper triangle is left as it was."""
    return gram.add_((x.double().T @ x.double()).tril())


def symmetrize_(gram: Tensor) -> Tensor:
    """The lower triangle onto the upper one."""
    return gram.copy_(gram.tril() + gram.tril(-1).T)


def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, *, axis: str) -> tuple[Tensor, Tensor]:
    """Method.md (4), the two sums of squares, of one mask after the other."""
    if mask.dim() == 2:
        sums = [perturbation(base, tuned, one, axis=axis) for one in mask]
        return torch.stack([change for change, _ in sums]), torch.stack([w for _, w in sums])
    original, changed = base.double(), tuned.double()
    if axis == "output":
        original, changed = original[mask], changed[mask]
    else:
        original, changed = original[:, mask], changed[:, mask]
    return (original - changed).square().sum(), original.square().sum()


def _block_diagonal(hessian: Tensor, block_size: int | None) -> Tensor:
    if block_size is None:
        return hessian
    block = torch.arange(len(hessian)) // block_size
    return hessian * (block[:, None] == block[None, :])


def _failing_minor(matrix: Tensor) -> int:
    """Order of the first leading minor that is not positive definite; 0 if none."""
    if torch.linalg.eigvalsh(matrix)[0] > 0:
        return 0
    for order in range(1, len(matrix) + 1):
        if torch.linalg.eigvalsh(matrix[:order, :order])[0] <= 0:
            return order
    return 0


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _levels(damping: float) -> list[float]:
    return [damping, *(level for level in DAMPING_LADDER if level > damping)]


def _invert(hessian: Tensor, damping: float, block_size: int | None) -> tuple[Tensor, ...]:
    full = hessian.double()
    failed = torch.full_like(full, torch.nan)
    if not full.isfinite().all():
        return failed, _scalar(damping), torch.tensor(-1), _scalar(torch.nan)
    dead = full.diagonal() == 0
    live = ~dead
    order, level, damped = 0, damping, full
    for level in _levels(damping):
        damped = _block_diagonal(full, block_size).clone()
        damped.diagonal().add_(level * full.diagonal().mean())
        damped.diagonal()[dead] = 1.0
        order = _failing_minor(damped)
        if order == 0:
            inverse = torch.linalg.inv(damped)
            condition = _scalar(0.0)
            if live.any():
                condition = torch.linalg.cond(damped[live][:, live], 1)
            return inverse, _scalar(level), torch.tensor(0), condition
    return failed, _scalar(level), torch.tensor(order), _scalar(torch.nan)


def inverse_hessian(
    hessian: Tensor | Sequence[Tensor],
    *,
    damping: float = 0.01,
    block_size: int | None = None,
    names: Sequence[str] | None = None,
    check: bool = True,
) -> InverseHessian:
    """Inverse of each damped block-diagonal matrix by `linalg.inv`; never raises."""
    is_tensor = isinstance(hessian, Tensor)
    each = list(hessian.flatten(0, -3)) if is_tensor and hessian.dim() > 2 else hessian
    each = [hessian] if is_tensor and hessian.dim() == 2 else each
    results = list(zip(*(_invert(one, damping, block_size) for one in each), strict=True))
    matrices, facts = list(results[0]), [torch.stack(fact) for fact in results[1:]]
    if not is_tensor:
        return InverseHessian(matrices, *facts)
    batch = hessian.shape[:-2]
    return InverseHessian(
        torch.stack(matrices).view(hessian.shape), *(fact.view(batch) for fact in facts)
    )


def compensation_ex(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    *,
    axis: str,
    kind: str,
    task_hessian: Tensor | None = None,
    task_weight: float = 1.0,
    damping: float = 0.01,
    block_size: int | None = None,
) -> Compensation:
    """Method.md (6)-(9) without a ladder: a loop over k, or a constrained solve."""
    lines = (delta if axis == "input" else delta.T).double().clone()
    level = _scalar(0.0)
    if kind == "none" or hessian is None or not mask.any():
        lines[:, mask] = 0
    elif kind == "sum":
        lines, level = _sum(lines, mask, hessian, damping, block_size), _scalar(damping)
    else:
        honest = _normalised(hessian, damping, block_size)
        task = torch.zeros_like(honest)
        if kind == "balanced" and task_hessian is not None:
            task = task_weight * _normalised(task_hessian, damping, block_size)
        lines, level = _constrained(lines, mask, honest, task), _scalar(damping)
    deviation = lines if axis == "input" else lines.T.contiguous()
    return Compensation(deviation, level, _scalar(torch.nan), torch.tensor(0))


def compensation(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    *,
    axis: str,
    kind: str,
    task_hessian: Tensor | None = None,
    task_weight: float = 1.0,
    damping: float = 0.01,
    block_size: int | None = None,
    name: str | None = None,
) -> Tensor:
    """The deviation alone."""
    return compensation_ex(
        delta,
        mask,
        hessian,
        axis=axis,
        kind=kind,
        task_hessian=task_hessian,
        task_weight=task_weight,
        damping=damping,
        block_size=block_size,
    ).deviation


def _sum(
    lines: Tensor, mask: Tensor, hessian: Tensor, damping: float, block_size: int | None
) -> Tensor:
    """Method.md (7) by its loop over the task neurons."""
    inverse = _invert(hessian, damping, block_size)[0]
    total = torch.zeros_like(lines)
    for k in (~mask).nonzero().flatten().tolist():
        total += torch.outer(lines[:, k] / inverse[k, k], inverse[:, k])
    return torch.where(mask, total, lines)


def _normalised(hessian: Tensor, damping: float, block_size: int | None) -> Tensor:
    """H divided by its mean diagonal and damped, its diagonal blocks only."""
    mean = hessian.double().diagonal().mean()
    scaled = _block_diagonal(hessian.double(), block_size) / (mean if mean != 0 else 1.0)
    return scaled + damping * torch.eye(len(hessian), dtype=torch.float64)


def _constrained(lines: Tensor, mask: Tensor, honest: Tensor, task: Tensor) -> Tensor:
    """Method.md (8) and (9) as written there: a quadratic under constraints, by its KKT system.

    `min_e e H e^T + (e - d) T (e - d)^T` subject to `e_t = d_t`, for every row e of E.
    """
    constraints = torch.eye(len(mask), dtype=torch.float64)[~mask]
    count = len(constraints)
    corner = torch.zeros(count, count, dtype=torch.float64)
    system = torch.cat(
        [
            torch.cat([2 * (honest + task), constraints.T], 1),
            torch.cat([constraints, corner], 1),
        ]
    )
    right = torch.cat([2 * task @ lines.T, lines.T[~mask]])
    solution = torch.linalg.lstsq(system, right, driver="gelsd").solution
    return solution[: len(mask)].T


def objective(deviation: Tensor, hessian: Tensor, *, axis: str) -> Tensor:
    """`tr(E H E^T)`, E transposed for the output axis."""
    lines = (deviation if axis == "input" else deviation.T).double()
    return torch.trace(lines @ hessian.double() @ lines.T)


def objectives(
    deviation: Tensor, mask: Tensor, hessian: Tensor, *, axis: str
) -> tuple[Tensor, Tensor]:
    """`objective` without the restored neurons, and with them."""
    none = deviation.clone()
    none[mask if axis == "output" else (slice(None), mask)] = 0
    return objective(none, hessian, axis=axis), objective(deviation, hessian, axis=axis)


def merge(
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    deviation: Tensor | None,
    *,
    axis: str,
    dtype: torch.dtype,
) -> Tensor:
    """One neuron at a time. fp32 is part of the definition here, so it is not raised to float64."""
    merged = tuned.to(dtype, copy=True)
    for k in mask.nonzero().flatten().tolist():
        at = (k, slice(None)) if axis == "output" else (slice(None), k)
        merged[at] = base[at] if deviation is None else base[at].float() + deviation[at]
    return merged
