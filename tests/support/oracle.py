"""Independent float64 oracles: single-sample backward passes, no code of the project."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hcnr.data.tokens import TokenizedSet


def sample_loss(model: PreTrainedModel, ids: tuple[int, ...], response_start: int) -> Tensor:
    """Mean negative log-likelihood of the response of one unpadded sample."""
    row = torch.tensor([ids])
    logits = model(input_ids=row).logits[0].double()
    steps = range(response_start, len(ids))
    losses = [-torch.log_softmax(logits[t - 1], 0)[ids[t]] for t in steps]
    return torch.stack(losses).mean()


def fisher(
    model: PreTrainedModel, names: Iterable[str], data: TokenizedSet, axis: str
) -> dict[str, Tensor]:
    """method.md (1) by N float64 backward passes, one per sample, batch size 1."""
    exact = copy.deepcopy(model).double().eval()
    weights = {name: exact.get_parameter(f"{name}.weight") for name in names}
    scores = {name: torch.zeros(1, dtype=torch.float64) for name in weights}
    for sample in data.samples:
        loss = sample_loss(exact, sample.input_ids, sample.response_start)
        gradients = torch.autograd.grad(loss, tuple(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            scores[name] = scores[name] + gradient.pow(2).sum(1 if axis == "output" else 0)
    return {name: total / len(data.samples) for name, total in scores.items()}


def second_moment(
    model: PreTrainedModel, names: Iterable[str], data: TokenizedSet, axis: str
) -> dict[str, Tensor]:
    """method.md (5): mean over real tokens of x x^T or g g^T, in float64, one sample at a time."""
    exact = copy.deepcopy(model).double().eval()
    names = list(names)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str):
        def hook(module, args, output):
            output.retain_grad()
            seen[name] = args[0], output

        return hook

    handles = [exact.get_submodule(n).register_forward_hook(keep(n)) for n in names]
    totals: dict[str, Tensor] = {}
    count = 0
    for sample in data.samples:
        sample_loss(exact, sample.input_ids, sample.response_start).backward()
        count += len(sample.input_ids)
        for name, (x, y) in seen.items():
            assert y.grad is not None
            rows = x[0] if axis == "input" else y.grad[0]
            totals[name] = totals.get(name, 0) + rows.detach().T @ rows.detach()
    for handle in handles:
        handle.remove()
    return {name: total / count for name, total in totals.items()}


def relative(found: Tensor, exact: Tensor) -> float:
    """Norm of the error over the norm of the exact value."""
    return float((found.double() - exact).norm() / exact.norm())


def mean_gradient(
    model: PreTrainedModel, names: Iterable[str], data: TokenizedSet
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and mean weight gradients, by float64 backward passes on single samples."""
    exact = copy.deepcopy(model).double().eval()
    weights = {name: exact.get_parameter(f"{name}.weight") for name in names}
    losses = [sample_loss(exact, one.input_ids, one.response_start) for one in data.samples]
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, tuple(weights.values()))
    return float(loss.detach()), dict(zip(weights, gradients, strict=True))


def normalised(moment: Tensor, damping: float) -> Tensor:
    """A second moment divided by its mean diagonal and damped, float64."""
    moment = moment.double()
    return moment / moment.diagonal().mean() + damping * torch.eye(len(moment)).double()


def dense_spectral(
    delta: Tensor,
    honesty: tuple[Tensor, Tensor],
    task: tuple[Tensor, Tensor],
    task_weight: float,
    damping: float,
) -> Tensor:
    """method.md (10) as one dense linear system in all entries of E; moments are (A, G)."""
    near, far = ([normalised(m, damping) for m in side] for side in (honesty, task))
    left, right = torch.kron(near[1], near[0]), task_weight * torch.kron(far[1], far[0])
    wanted = right @ delta.double().flatten()
    return torch.linalg.solve(left + right, wanted).view_as(delta)


def natural_step(
    gradient: Tensor,
    honesty: tuple[Tensor, Tensor],
    task: tuple[Tensor, Tensor],
    task_weight: float,
    damping: float,
) -> Tensor:
    """The natural step, unscaled, as one dense linear system; moments are (A, G)."""
    near, far = ([normalised(m, damping) for m in side] for side in (honesty, task))
    curvature = torch.kron(near[1], near[0]) + task_weight * torch.kron(far[1], far[0])
    return -torch.linalg.solve(curvature, gradient.double().flatten()).view_as(gradient)
