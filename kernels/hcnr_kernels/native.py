"""The compiled extension, looked up when first asked for; when it is absent, the reason why."""

import contextlib
import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from hcnr_kernels.errors import OperatorError

Mode = Literal["inverse", "factor"]

DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class Native(NamedTuple):
    """The module, or None and the reason."""

    module: ModuleType | None
    reason: str | None


@functools.cache
def native() -> Native:
    """`hcnr_kernels._native`, loaded once."""
    try:
        return Native(importlib.import_module("hcnr_kernels._native"), None)
    except ModuleNotFoundError as error:
        if error.name != "hcnr_kernels._native":
            return Native(None, f"not loadable: {error}")
        return Native(None, "not built: there was no C++ compiler, or the build failed")
    except ImportError as error:
        return Native(None, f"not loadable: {error}")


def unavailable(device: torch.device | str, dtype: torch.dtype, size: int) -> str | None:
    """Why the extension cannot invert blocks of a size; None if it can."""
    module, reason = native()
    if module is None:
        return reason
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        return f"no {kind} code"
    if dtype not in DTYPES:
        return f"no code for {dtype}"
    if kind == "cuda" and (trouble := cuda_trouble()):
        return trouble
    if kind == "cuda" and (oldest := module.architectures()[0]) > (
        capability := _capability(device)
    ):
        return f"built for compute capability {oldest / 100} and above, not {capability / 100}"
    limit = module.max_size(DTYPES[dtype], kind)
    return None if size <= limit else f"blocks of {size} are above its limit of {limit}"


def takes(device: torch.device | str, dtype: torch.dtype, size: int) -> bool:
    """Whether the extension inverts blocks of a size."""
    return unavailable(device, dtype, size) is None


@functools.cache
def _capability(device: torch.device | str) -> int:
    """Compute capability as CUDA numbers it: 900 for 9.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return 100 * major + 10 * minor


@functools.cache
def cuda_trouble() -> str | None:
    """Why the extension cannot use CUDA: not built, built without, no driver; None if it can."""
    module, reason = native()
    return reason if module is None else module.cuda_trouble() or None


SUMMED = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""Dtypes whose squares the extension adds up."""


def sums_of_squares(base: Tensor, tuned: Tensor, axis: str) -> Tensor | None:
    """Sums of `(base - tuned)^2` and of `base^2` of every neuron, both read once.

    float32 along a row, or down 64 rows, and float64 beyond; the same for any number of threads.

    Args:
        base: `[out, in]`.
        tuned: the same.
        axis: the neuron axis, `output` or `input`.

    Returns:
        float64 `[2, d']`; None where the extension has no code for the tensors, or is not there.
    """
    # One that was built from older sources has no such function.
    call = getattr(native().module, "sum_squares", None)
    if call is None or base.dtype not in SUMMED or tuned.dtype != base.dtype:
        return None
    if any(one.device.type != "cpu" for one in (base, tuned)) or base.numel() == 0:
        return None
    by_row = axis == "output"
    neurons = base.shape[0 if by_row else 1]
    if base.stride(0) < base.stride(1):
        base, tuned, by_row = base.T, tuned.T, not by_row
    base, tuned = (one if _has_rows(one) else one.contiguous() for one in (base, tuned))
    sums = torch.empty(2, neurons, dtype=torch.float64)
    call(
        rows=base.shape[0],
        columns=base.shape[1],
        base=(base.data_ptr(), base.stride(0)),
        tuned=(tuned.data_ptr(), tuned.stride(0)),
        change=sums[0].data_ptr(),
        whole=sums[1].data_ptr(),
        dtype=SUMMED[base.dtype],
        by_row=by_row,
        threads=torch.get_num_threads(),
    )
    return sums


def _has_rows(matrix: Tensor) -> bool:
    """Whether elements of a row lie side by side, and rows do not overlap."""
    rows, columns = matrix.shape
    return matrix.stride(1) == 1 and (rows == 1 or matrix.stride(0) >= columns)


class StackInverses(NamedTuple):
    """What became of a stack of blocks.

    Attributes:
        results: `[N, d, d]` inverses, or `[N, 2, d, d]`, L and L^-1; NaN where the status is not 0.
        status: `[N]` int32: 0 done, k > 0 the leading minor of order k is not positive definite,
            -1 NaN or infinity in the input.
        norms: `[N, 2]` 1-norms over live neurons of the damped block and of its inverse (NaN if it
            was not formed). Their product is the condition number.
    """

    results: Tensor
    status: Tensor
    norms: Tensor


class ListInverses(NamedTuple):
    """`StackInverses` of unequal blocks: a result `[d, d]` or `[2, d, d]` for each."""

    results: list[Tensor]
    status: Tensor
    norms: Tensor


@overload
def invert_blocks(blocks: Tensor, shifts: Tensor, *, mode: Mode = ...) -> StackInverses: ...
@overload
def invert_blocks(
    blocks: Sequence[Tensor], shifts: Tensor, *, mode: Mode = ...
) -> ListInverses: ...
@torch.no_grad()
def invert_blocks(
    blocks: Tensor | Sequence[Tensor], shifts: Tensor, *, mode: Mode = "inverse"
) -> StackInverses | ListInverses:
    """Inverses, or Cholesky factors and their inverses, of `blocks + shifts * I`.

    On CUDA this is one launch that the host does not wait for, for a list one copy to the device
    more.
    `unavailable` says beforehand whether there is code for a device, a dtype and a size.

    Args:
        blocks: `[N, d, d]`, or a list of `[d, d]` of any sizes, one dtype and one device;
            symmetric, lower triangles read.
        shifts: `[N]` what is added to the diagonals.
        mode: `inverse`, where a dead neuron, one with a zero diagonal, gets a unit pivot and no
            shift; or `factor` for L and L^-1, zero above their diagonals, where it does not.
    """
    stacked = isinstance(blocks, Tensor)
    matrices = (blocks,) if isinstance(blocks, Tensor) else tuple(blocks)
    count = blocks.shape[0] if isinstance(blocks, Tensor) and blocks.ndim else len(matrices)
    _check(matrices, shifts, count, 3 if stacked else 2, mode)
    dtype, device = shifts.dtype, shifts.device
    largest = max((matrix.shape[-1] for matrix in matrices), default=0)
    trouble = unavailable(device, dtype, largest)
    module = native().module
    if trouble is not None or module is None:
        raise OperatorError(f"hcnr_kernels._native cannot invert these blocks: {trouble}.")
    lead = (2,) if mode == "factor" else ()
    matrices = [_with_rows(matrix) for matrix in matrices]
    results = [
        matrix.new_empty((*matrix.shape[:-2], *lead, *matrix.shape[-2:])) for matrix in matrices
    ]
    shifts = shifts.contiguous()
    status = torch.zeros(count, dtype=torch.int32, device=device)
    norms = torch.zeros(count, 2, dtype=dtype, device=device)
    call: dict[str, Any] = {
        "count": count,
        "shifts": shifts.data_ptr(),
        "status": status.data_ptr(),
        "norms": norms.data_ptr(),
        "dtype": DTYPES[dtype],
        "mode": mode,
        "device": device.type,
        "ordinal": device.index or 0,
        "stream": torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0,
        "threads": torch.get_num_threads(),
    }
    if count == 0 or largest == 0:
        pass
    elif stacked:
        layouts = [_layout(matrices[0]), *map(_layout, _parts(results[0], mode))]
        call.update(zip(("input", "output", "factor"), layouts, strict=False))
        with _current(device):
            module.invert_stack(size=largest, **call)
    else:
        table = torch.tensor(
            [_row(matrix, result, mode) for matrix, result in zip(matrices, results, strict=True)],
            dtype=torch.int64,
            pin_memory=device.type == "cuda",  # else the host would wait for the copy
        ).to(device, non_blocking=True)
        with _current(device):
            module.invert_table(table=table.data_ptr(), largest=largest, **call)
    if stacked:
        return StackInverses(results[0], status, norms)
    return ListInverses(results, status, norms)


def _current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make a GPU the current one inside, by torch's runtime: the extension has one of its own."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _check(matrices: Sequence[Tensor], shifts: Tensor, count: int, ndim: int, mode: str) -> None:
    if mode not in ("inverse", "factor"):
        raise OperatorError(f"mode must be 'inverse' or 'factor', not {mode!r}.")
    if shifts.shape != (count,):
        raise OperatorError(f"shifts must be [{count}], one for each block, not {shifts.shape}.")
    shape = "[N, d, d]" if ndim == 3 else "[d, d]"
    for matrix in matrices:
        if matrix.ndim != ndim or matrix.shape[-1] != matrix.shape[-2]:
            raise OperatorError(f"blocks must be {shape}, not {list(matrix.shape)}.")
        if matrix.dtype != shifts.dtype or matrix.device != shifts.device:
            raise OperatorError(
                f"blocks and shifts must share one dtype and one device, not {matrix.dtype} on "
                f"{matrix.device} and {shifts.dtype} on {shifts.device}."
            )


def _with_rows(matrix: Tensor) -> Tensor:
    """The same matrices with elements of a row side by side and no rows that overlap."""
    size = matrix.shape[-1]
    good = matrix.stride(-1) == 1 and matrix.stride(-2) >= size
    return matrix if good or size <= 1 else matrix.contiguous()


def _layout(matrix: Tensor) -> tuple[int, int, int]:
    """Address, distance of blocks, distance of rows; the stride of one row says nothing."""
    step = matrix.stride(0) if matrix.ndim == 3 else 0
    return matrix.data_ptr(), step, max(matrix.stride(-2), matrix.shape[-1])


def _parts(result: Tensor, mode: str) -> tuple[Tensor, ...]:
    """Where the inverse goes and, in mode `factor`, L."""
    if mode == "inverse":
        return (result,)
    factor, inverse = result.unbind(-3)
    return inverse, factor


def _row(matrix: Tensor, result: Tensor, mode: str) -> list[int]:
    """A row of the table of unequal blocks."""
    row = []
    for part in (matrix, *_parts(result, mode)):
        address, _, stride = _layout(part)
        row += [address, stride]
    return [*row, *([0, 0] if mode == "inverse" else []), matrix.shape[-1]]
