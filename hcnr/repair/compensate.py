"""Compensation and merge, one matrix at a time, with a record of the numerics of each."""

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from hcnr.checkpoint import all_finite
from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.errors import CheckpointError, ConfigError, StatisticsError
from hcnr.kinds import Axis, RepairKind
from hcnr.models.model import resolve_device
from hcnr.record.files.matrix_record import MatrixRecord, is_raised
from hcnr.repair.restored import restored_record
from hcnr.repair.selection import Selection, refuse_unless
from hcnr_kernels import (
    Compensation,
    FactorizationError,
    Objectives,
    compensation_ex,
    merge,
    objective,
    objectives,
)

OneAxis = Literal["none", "sum", "joint", "balanced"]
"""The kinds that `hcnr_kernels.compensation` knows."""
_ALIGNMENT = 64
"""Bytes; what is mapped from a file may lie anywhere."""


def curvature_of(statistics: Statistics, data_set: str, matrix: str) -> Tensor:
    """Curvature of a selected matrix, float32 `[d', d']`.

    Raises:
        StatisticsError: it was not collected.
    """
    hessian = statistics.hessians.get(data_set, {}).get(matrix)
    if hessian is None:
        raise StatisticsError(
            f"the statistics hold no {data_set} curvature of {matrix}, which this configuration "
            "needs; measure again with the configuration of this run, or with --all-hessians"
            f"{' and --compensation balanced' if data_set == 'task' else ''} for any selection"
        )
    return hessian


def check_curvature(statistics: Statistics, selection: Selection, config: RestoreConfig) -> None:
    """Check that all curvature that the repairs will ask for is there, taken where it should be.

    Raises:
        StatisticsError: it is not.
    """
    needs = config.kind.needs
    if not needs:
        return
    refuse_unless("hessian_at", statistics.settings.get("hessian_at", config.hessian_at), config)
    for name in selection.selected:
        for data_set in needs:
            curvature_of(statistics, data_set, name)


def whole_weight(name: str, base: Tensor, tuned: Tensor, deviation: Tensor) -> Tensor:
    """`W0 + E` of a whole matrix, rounded once.

    Args:
        name: the matrix.
        base: base weight `[out, in]`.
        tuned: tuned weight `[out, in]`, whose dtype counts.
        deviation: E float32 `[out, in]`, on the device of the computation.

    Returns:
        `[out, in]` in tuned's dtype on the CPU.

    Raises:
        CheckpointError: the result does not fit into that dtype.
    """
    device = deviation.device
    everything = torch.ones(base.shape[0], dtype=torch.bool, device=device)
    base, tuned = base.to(device), tuned.to(device)
    weight = merge(base, tuned, everything, deviation, axis="output", dtype=tuned.dtype)
    return _held(name, weight.cpu())


def along_one_axis(
    kind: RepairKind,
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor,
    task_hessian: Tensor | None,
    **settings: Any,
) -> Compensation:
    """`sum`, `joint` and `balanced`, method.md (7) to (9); see `hcnr.kinds.RepairKind.apply`."""
    return compensation_ex(
        delta,
        mask,
        hessian,
        kind=cast(OneAxis, kind.name),
        task_hessian=task_hessian,
        **settings,
    )


class FinalWeight(NamedTuple):
    """A final weight and how it was obtained; without compensation there is only the weight.

    Attributes:
        weight: `[out, in]`, in the tuned weight's dtype, on the CPU.
        delta: `W1 - W0` float32 `[out, in]`.
        hessian: honesty curvature `[d', d']`, on the device of the computation.
        solved: the compensation, its deviation `[out, in]`.
    """

    weight: Tensor
    delta: Tensor | None = None
    hessian: Tensor | None = None
    solved: Compensation | None = None


def final_weight(
    name: str,
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    statistics: Statistics,
    config: RestoreConfig,
) -> FinalWeight:
    """Final weight of one matrix, method.md (14); the same for every caller, bit for bit.

    Args:
        name: the matrix.
        base: base weight `[out, in]`.
        tuned: tuned weight `[out, in]`.
        mask: neurons to restore, bool `[d']`.
        statistics: curvature, for every kind but `none`.
        config: axis, kind, damping, task weight.

    Raises:
        StatisticsError: curvature is missing.
        FactorizationError: the curvature cannot be factorised at any declared damping.
        CheckpointError: the result does not fit into the tuned weight's dtype.
    """
    axis, kind = config.axis, config.kind
    apply = kind.applied()
    if apply is None:
        weight = merge(base, tuned, mask, None, axis=axis, dtype=tuned.dtype)
        return FinalWeight(_held(name, weight))
    device = resolve_device(config.device)
    hessian, task_hessian = (
        _aligned(curvature_of(statistics, data_set, name).to(device))
        if data_set in kind.needs
        else None
        for data_set in ("honesty", "task")
    )
    base, tuned, mask = base.to(device), tuned.to(device), mask.to(device)
    delta = tuned.float() - base.float()
    solved: Compensation = apply(
        kind,
        delta,
        mask,
        hessian,
        task_hessian,
        axis=axis,
        task_weight=config.mu if kind.weighs_task else 1.0,
        damping=config.damping,
        block_size=config.block_size,
    )
    if not isinstance(solved, Compensation) or solved.deviation.shape != delta.shape:
        raise ConfigError(
            f"the repair {kind.name!r} returned {_described(solved)} for {name}, expected a "
            f"hcnr_kernels.Compensation with a deviation {list(delta.shape)}; repair or uninstall "
            "the package that registered it"
        )
    if int(solved.status) != 0:
        raise FactorizationError(_failure(name, int(solved.status), statistics))
    weight = merge(base, tuned, mask, solved.deviation, axis=axis, dtype=tuned.dtype)
    return FinalWeight(_held(name, weight.cpu()), delta, hessian, solved)


def repair(
    name: str,
    base: Tensor,
    tuned: Tensor,
    statistics: Statistics,
    selection: Selection,
    config: RestoreConfig,
) -> tuple[Tensor, MatrixRecord]:
    """`final_weight` for a selected matrix, with the record of its numerics.

    Args:
        name: the matrix.
        base: base weight `[out, in]`.
        tuned: tuned weight `[out, in]`.
        statistics: curvature, for every kind but `none`.
        selection: masks and perturbations.
        config: kind, damping, task weight.

    Returns:
        The weight in the tuned weight's dtype on the CPU, and the record.

    Raises:
        HcnrError: as `final_weight`.
    """
    mask = selection.masks[name]
    weight, delta, hessian, solved = final_weight(name, base, tuned, mask, statistics, config)
    axis = selection.axis
    if delta is None or hessian is None or solved is None:
        return weight, restored_record(name, tuned.shape, selection)
    both = objectives_of(delta, solved.deviation, mask.to(delta.device), hessian, axis)
    raised = is_raised(float(solved.damping), config.damping)
    damping = float(f"{float(solved.damping):.6g}") if raised else config.damping
    # On the output axis only the response's tokens are sure to have a gradient: in the last block
    # no others do.
    rows = statistics.data.get("honesty", {}).get(
        "tokens" if axis == "input" else "response_tokens"
    )
    record = restored_record(
        name,
        tuned.shape,
        selection,
        # Zeros stand for "nothing had to be factorised".
        damping=damping if solved.damping > 0 else None,
        damping_raised=raised,
        condition=float(solved.condition) or None,
        dead=int((hessian.diagonal() == 0).sum()),
        rank_deficient=None if rows is None else rows < mask.shape[0],
        objective_none=float(both.none),
        objective=float(both.compensated),
        device=str(resolve_device(config.device)),
    )
    return weight, record


def objectives_of(
    delta: Tensor,
    deviation: Tensor,
    mask: Tensor,
    hessian: Tensor,
    axis: Axis,
) -> Objectives:
    """Method.md (8) without compensation and with it.

    Args:
        delta: `W1 - W0` `[out, in]`; its restored neurons may become zero.
        deviation: E `[out, in]`.
        mask: restored neurons, bool `[d']`.
        hessian: honesty curvature `[d', d']`.
        axis: the neuron axis.
    """
    dim = 0 if axis == "output" else 1
    tasks = (~mask).nonzero().squeeze(1)
    if torch.equal(deviation.index_select(dim, tasks), delta.index_select(dim, tasks)):
        return objectives(deviation, mask, hessian, axis=axis)
    # A registered kind may change the other neurons, too.
    delta[mask if axis == "output" else (slice(None), mask)] = 0
    pair = (objective(one, hessian, axis=axis) for one in (delta, deviation))
    return Objectives(*pair)


def _aligned(matrix: Tensor) -> Tensor:
    """The same where torch's allocator would put it: products may round by where operands lie."""
    return matrix if matrix.data_ptr() % _ALIGNMENT == 0 else matrix.clone()


def _described(solved: object) -> str:
    if isinstance(solved, Compensation):
        return f"a deviation {list(solved.deviation.shape)}"
    return f"a {type(solved).__name__}"


def _held(name: str, weight: Tensor) -> Tensor:
    """Return the restored weight, which its dtype must be able to hold."""
    if not all_finite(weight):
        raise CheckpointError(
            f"the restored weight of {name} overflows {str(weight.dtype).removeprefix('torch.')}, "
            "the dtype of tuned; use a larger --damping, or save tuned in a wider dtype first"
        )
    return weight


def _failure(name: str, status: int, statistics: Statistics) -> str:
    """Say why a curvature could not be factorised, and what helps."""
    if status < 0:
        return f"the curvature of {name} holds NaN or infinity; measure again with --dtype float32"
    tokens = statistics.data.get("honesty", {}).get("tokens", "unknown")
    size = statistics.hessians["honesty"][name].shape[0]
    return (
        f"the curvature of {name} ({size} neurons, {tokens} tokens) is not positive definite at "
        f"minor {status} even at the largest damping; use more samples, a larger --damping, or "
        "--compensation none"
    )
