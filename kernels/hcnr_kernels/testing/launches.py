"""Every launch worth compiling: arguments of the fused operators, as tensors without memory.

An operator without a case here fails the tests. Importing this module does not import Triton.
"""

import functools
import importlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hcnr_kernels.checks import AXES
from hcnr_kernels.library import REGISTERED
from hcnr_kernels.ops.fisher.forms import FORMS
from hcnr_kernels.ops.fisher.vectorised import empty_planes
from hcnr_kernels.testing.specialization import specialize
from hcnr_kernels.triton.launch import FLOATS, Launch, recording

_empty = functools.partial(torch.empty, device="meta")

_View = Callable[[int, int, torch.dtype], Tensor]
_Arguments = Iterator[tuple[Any, ...]]


def _contiguous(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return _empty(rows, columns, dtype=dtype)


def _shifted(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return _empty(rows, columns + 1, dtype=dtype)[:, 1:]


def _transposed(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    return _empty(columns, rows, dtype=dtype).T


def _shapes(awkward: bool) -> Iterator[tuple[tuple[int, int], tuple[int, int], _View]]:
    """(samples, tokens of each), (in, out), layout.

    The usual ones are the matrices of an 8B model and samples on either side of every threshold of
    `tiles`; the awkward ones no multiple of 16, and 1, which Triton makes a constant.
    """
    if awkward:
        yield (3, 127), (1031, 1153), _shifted
        yield (5, 63), (63, 129), _transposed
        yield (1, 1), (1, 1), _contiguous
    else:
        matrices = (4096, 4096), (4096, 1024), (4096, 14336), (14336, 4096)
        yield from itertools.product(((32, 256), (1, 8192), (512, 16)), matrices, (_contiguous,))


def _pairs(
    dtype: torch.dtype, awkward: bool, *, weights: bool
) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    """Base and tuned weights, or packed inputs and gradients; samples and tokens of each."""
    for (samples, length), (into, out), view in _shapes(awkward):
        if weights:
            shapes = (out, into), (out, into)
        else:
            shapes = (samples * length, into), (samples * length, out)
        mixed = view is _shifted or (view is _transposed and not weights)
        others = (dtype, torch.float32) if mixed else (dtype,)
        for other in dict.fromkeys(others):
            yield view(*shapes[0], dtype), view(*shapes[1], other), samples, length


def _packed(
    dtype: torch.dtype, awkward: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None, int]]:
    """Inputs, output gradients, offsets, lengths in padding, and the longest sample.

    With and without padding in bf16 alone: a third fewer kernels to compile.
    """
    for x, g, samples, length in _pairs(dtype, awkward, weights=False):
        bounds, used = (_empty(size, dtype=torch.int32) for size in (samples + 1, samples))
        if awkward or dtype != torch.float32:
            yield x, g, bounds, used, length
        if not awkward and dtype != torch.float16:
            yield x, g, bounds, None, length


def _fisher(dtype: torch.dtype, awkward: bool, *, axis: str) -> _Arguments:
    for x, g, *spans, length in _packed(dtype, awkward):
        scores = _empty((g if axis == "output" else x).shape[1])
        for form in FORMS:
            yield scores, x, g, *spans, form, None, length
        yield scores, x, g, *spans, "auto", _empty(x.shape[0], length), length
        if (g if axis == "output" else x).dtype == torch.bfloat16:
            planes = empty_planes(x, length)
            yield scores, x, g, *spans, "auto", planes, length


def _fisher_both(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for x, g, *spans, _ in _packed(dtype, awkward):
        yield _empty(g.shape[1]), _empty(x.shape[1]), x, g, *spans


def _fisher_weight(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for x, g, *spans, _ in _packed(dtype, awkward):
        yield _empty(g.shape[1], x.shape[1]), x, g, *spans


def _token_gram(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for x, _, *spans, length in _packed(dtype, awkward):
        yield x, *spans, length


def _gram(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for x, *_ in _pairs(dtype, awkward, weights=False):
        yield _empty(x.shape[1], x.shape[1]), x


def _symmetrize(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for _, (width, _), view in _shapes(awkward):
        yield (view(width, width, dtype),)


def _perturbation(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for base, tuned, *_ in _pairs(dtype, awkward, weights=True):
        for axis, neurons in zip(AXES, base.shape, strict=True):
            yield base, tuned, _empty(neurons, dtype=torch.bool), axis
            yield base, tuned, _empty(3, neurons, dtype=torch.bool), axis


def _single(dtype: torch.dtype, awkward: bool) -> _Arguments:
    """`_perturbation` with one mask."""
    return (one for one in _perturbation(dtype, awkward) if one[2].dim() == 1)


def _merge(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for base, tuned, mask, axis in _single(dtype, awkward):
        deviation = torch.empty_like(base, dtype=torch.float32)
        for extra, target in itertools.product((None, deviation), (dtype, torch.bfloat16)):
            yield base, tuned, mask, extra, axis, target


def _objectives(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for deviation, _, mask, axis in _single(dtype, awkward):
        yield deviation, mask, _empty(*mask.shape, *mask.shape), axis


def _matrices(dtype: torch.dtype, awkward: bool) -> Iterator[Tensor]:
    """Large matrices to be inverted: fp32, in rows of whole vectors or copied into such."""
    if dtype == torch.float32:
        for width in (1000, 1023) if awkward else (1024, 4096, 14336):
            yield _contiguous(width, width, dtype)


def _factor(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for matrix in _matrices(dtype, awkward):
        yield (matrix,)


def _finish(dtype: torch.dtype, awkward: bool) -> _Arguments:
    for matrix in _matrices(dtype, awkward):
        yield matrix, matrix.shape[0] // 2


CASES: Mapping[str, Callable[[torch.dtype, bool], _Arguments]] = {
    "fisher_output_": functools.partial(_fisher, axis="output"),
    "fisher_input_": functools.partial(_fisher, axis="input"),
    "fisher_both_": _fisher_both,
    "fisher_weight_": _fisher_weight,
    "token_gram": _token_gram,
    "split_token_gram": _token_gram,
    "gram_": _gram,
    "symmetrize_": _symmetrize,
    "perturbation": _perturbation,
    "merge": _merge,
    "objectives": _objectives,
    "factor_": _factor,
    "invert_": _factor,
    "finish_": _finish,
}
"""Arguments of every operator that has Triton kernels, and of the parts of others that have."""

PARTS = dict.fromkeys(("factor_", "invert_", "finish_"), "hcnr_kernels.ops.inverse.triton")
"""Kernels of operators whose torch code reads values between them, and the module of each."""


def served() -> dict[str, str]:
    """The operators and parts that have Triton kernels, and the module that holds them."""
    return {
        **{name: row.triton for name, row in REGISTERED.items() if row.triton is not None},
        **PARTS,
    }


def launches(
    capability: int, operators: Sequence[str] = (), *, awkward: bool = False
) -> list[tuple[str, Launch]]:
    """One launch of every configuration that the operators start, with the operator's name.

    Args:
        capability: Chip that the tiles are chosen for; 90 is 9.0.
        operators: Only these; all when empty.
        awkward: Odd widths, unaligned and transposed views, mixed dtypes and sizes of 1, in place
            of the contiguous tensors of an 8B model.
    """
    named: list[tuple[str, Launch]] = []
    for name, module in served().items():
        if operators and name not in operators:
            continue
        host = getattr(importlib.import_module(module), name)
        with recording(capability) as seen:
            for dtype in FLOATS:
                for arguments in CASES[name](dtype, awkward):
                    host(*arguments)
        distinct = {specialize(launch): launch for launch in seen}
        named += [(name, launch) for launch in distinct.values()]
    return named
