"""Argument checks, called by the fakes and by every backend: what is refused, in one sentence."""

import itertools
import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from hcnr_kernels.errors import OperatorError

AXES = ("output", "input")
FORMS = ("auto", "gram", "direct")
KINDS = ("none", "sum", "joint", "balanced")
ACCUMULATORS = (torch.float32,)
FACTORS = (torch.float32, torch.float64)


def refuse(argument: str, expected: str, found: object) -> NoReturn:
    """Raise the one sentence: the argument, what it must be, what was found."""
    raise OperatorError(f"{argument} must be {expected}, found {found}.")


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)} on {tensor.device}"


def _choice(argument: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        refuse(argument, "one of " + ", ".join(allowed), repr(value))


def _non_negative(argument: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        refuse(argument, "a finite number >= 0", value)


def _floating(argument: str, tensor: Tensor, dims: int, layout: str) -> None:
    if tensor.dim() != dims or not tensor.dtype.is_floating_point:
        refuse(argument, f"a floating-point tensor {layout}", _describe(tensor))


def _typed(argument: str, tensor: Tensor, dtypes: Sequence[torch.dtype]) -> None:
    if tensor.dtype not in dtypes:
        refuse(argument, " or ".join(str(dtype) for dtype in dtypes), _describe(tensor))


def _shaped(argument: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if tensor.dim() != len(shape) or any(
        got != want for got, want in zip(tensor.shape, shape, strict=True)
    ):
        refuse(argument, f"of shape {tuple(shape)}", _describe(tensor))


def _beside(argument: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.device != other.device:
        refuse(argument, f"on {other.device}", _describe(tensor))


def _offsets(cu_seqlens: Tensor, seqused: Tensor | None, other: Tensor) -> None:
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype != torch.int32 or cu_seqlens.shape[0] < 1:
        refuse("cu_seqlens", "an int32 tensor [samples + 1]", _describe(cu_seqlens))
    _beside("cu_seqlens", cu_seqlens, other)
    if seqused is None:
        if cu_seqlens.shape[0] == 1 and other.shape[0] > 0:
            refuse("cu_seqlens", f"of samples that own the {other.shape[0]} packed tokens", "none")
        return
    samples = cu_seqlens.shape[0] - 1
    if seqused.dim() != 1 or seqused.dtype != torch.int32 or seqused.shape[0] != samples:
        refuse("seqused", f"an int32 tensor [{samples}]", _describe(seqused))
    _beside("seqused", seqused, other)


def sample_bounds(
    cu_seqlens: Tensor, tokens: int, seqused: Tensor | None = None
) -> list[tuple[int, int]]:
    """First and last (exclusive) row of each sample; the values of the offsets checked."""
    offsets: list[int] = cu_seqlens.tolist()
    rising = all(low <= high for low, high in itertools.pairwise(offsets))
    bounds = list(itertools.pairwise(offsets))
    if seqused is None:
        if offsets[0] != 0 or offsets[-1] != tokens or not rising:
            expected = f"non-decreasing from 0 to the {tokens} packed tokens"
            refuse("cu_seqlens", expected, _shortened(offsets))
        return bounds
    if offsets[0] < 0 or offsets[-1] > tokens or not rising:
        refuse("cu_seqlens", f"non-decreasing between 0 and {tokens} rows", _shortened(offsets))
    used: list[int] = seqused.tolist()
    spans = zip(bounds, used, strict=True)
    if not all(0 <= rows <= stop - start for (start, stop), rows in spans):
        refuse("seqused", "from 0 to the rows between a sample's offsets", _shortened(used))
    return [(start, start + rows) for (start, _), rows in zip(bounds, used, strict=True)]


def _shortened(values: Sequence[int]) -> str:
    return str(values) if len(values) <= 8 else f"{values[:4]} ... {values[-4:]}"


def _packed(x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None) -> None:
    _floating("x", x, 2, "[tokens, in]")
    _floating("g", g, 2, "[tokens, out]")
    if x.shape[0] != g.shape[0]:
        refuse("g", f"of the {x.shape[0]} tokens of x", _describe(g))
    _beside("g", g, x)
    _offsets(cu_seqlens, seqused, x)


def fisher_output_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> None:
    """Arguments of `fisher_output_`."""
    _packed(x, g, cu_seqlens, seqused)
    _scores("scores", scores, g)
    _form(x, form, token_gram, max_seqlen)


def fisher_input_(
    scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
    form: str,
    token_gram: Tensor | None,
    max_seqlen: int | None,
) -> None:
    """Arguments of `fisher_input_`."""
    _packed(x, g, cu_seqlens, seqused)
    _scores("scores", scores, x)
    _form(x, form, token_gram, max_seqlen)


def fisher_both_(
    output_scores: Tensor,
    input_scores: Tensor,
    x: Tensor,
    g: Tensor,
    cu_seqlens: Tensor,
    seqused: Tensor | None,
) -> None:
    """Arguments of `fisher_both_`."""
    _packed(x, g, cu_seqlens, seqused)
    _scores("output_scores", output_scores, g)
    _scores("input_scores", input_scores, x)


def _scores(argument: str, scores: Tensor, own: Tensor) -> None:
    _typed(argument, scores, ACCUMULATORS)
    _shaped(argument, scores, own.shape[-1:])
    _beside(argument, scores, own)


def _form(x: Tensor, form: str, token_gram: Tensor | None, max_seqlen: int | None) -> None:
    _choice("form", form, FORMS)
    if max_seqlen is not None and max_seqlen < 0:
        refuse("max_seqlen", "None or >= 0", max_seqlen)
    if token_gram is None:
        return
    if form == "direct":
        refuse("form", "auto or gram when token_gram is given", repr(form))
    _typed("token_gram", token_gram, ACCUMULATORS)
    if token_gram.dim() != 2 or token_gram.shape[0] != x.shape[0]:
        refuse("token_gram", f"of shape ({x.shape[0]}, max_seqlen)", _describe(token_gram))
    _beside("token_gram", token_gram, x)


def token_gram(x: Tensor, cu_seqlens: Tensor, seqused: Tensor | None, max_seqlen: int) -> None:
    """Arguments of `token_gram`."""
    _floating("x", x, 2, "[tokens, width]")
    _offsets(cu_seqlens, seqused, x)
    if max_seqlen < 0:
        refuse("max_seqlen", ">= 0", max_seqlen)


def longest(bounds: Sequence[tuple[int, int]]) -> int:
    """Tokens of the longest sample."""
    return max((stop - start for start, stop in bounds), default=0)


def at_least_longest(bounds: Sequence[tuple[int, int]], limit: int, argument: str) -> None:
    """Refuse a sample with more than `limit` tokens."""
    length = longest(bounds)
    if length > limit:
        refuse(argument, f"at least the longest sample, {length} tokens", limit)


def fisher_weight_(
    scores: Tensor, x: Tensor, g: Tensor, cu_seqlens: Tensor, seqused: Tensor | None
) -> None:
    """Arguments of `fisher_weight_`."""
    _packed(x, g, cu_seqlens, seqused)
    _typed("scores", scores, ACCUMULATORS)
    _shaped("scores", scores, (g.shape[1], x.shape[1]))
    _beside("scores", scores, x)


def gram_(gram: Tensor, x: Tensor) -> None:
    """Arguments of `gram_`."""
    _floating("x", x, 2, "[tokens, width]")
    _typed("gram", gram, ACCUMULATORS)
    _shaped("gram", gram, (x.shape[1], x.shape[1]))
    _beside("gram", gram, x)


def symmetrize_(gram: Tensor) -> None:
    """Arguments of `symmetrize_`."""
    _floating("gram", gram, 2, "[width, width]")
    _shaped("gram", gram, (gram.shape[0], gram.shape[0]))


def _neurons(mask: Tensor, matrix: Tensor, axis: str) -> None:
    _choice("axis", axis, AXES)
    if mask.dtype != torch.bool:
        refuse("mask", "a bool tensor", _describe(mask))
    _shaped("mask", mask, (matrix.shape[0 if axis == "output" else 1],))
    _beside("mask", mask, matrix)


def _pair(base: Tensor, tuned: Tensor) -> None:
    _floating("base", base, 2, "[out, in]")
    _floating("tuned", tuned, 2, "[out, in]")
    _shaped("tuned", tuned, base.shape)
    _beside("tuned", tuned, base)


def perturbation(base: Tensor, tuned: Tensor, mask: Tensor, axis: str) -> None:
    """Arguments of `perturbation`."""
    _pair(base, tuned)
    _neurons(mask, base, axis)


def _damping(damping: float, block_size: int | None) -> None:
    _non_negative("damping", damping)
    if block_size is not None and block_size < 1:
        refuse("block_size", "None or >= 1", block_size)


def inverse_hessian(hessian: Tensor, damping: float, block_size: int | None) -> None:
    """Arguments of `inverse_hessian`; the public function has flattened the leading dimensions."""
    _typed("hessian", hessian, FACTORS)
    if hessian.dim() != 3 or hessian.shape[1] != hessian.shape[2] or hessian.shape[2] < 1:
        refuse("hessian", "square, [..., d, d] with d >= 1", _describe(hessian))
    _damping(damping, block_size)


def _curvature(argument: str, matrix: Tensor | None, neurons: int, kind: str, like: Tensor) -> None:
    if matrix is None:
        refuse(argument, f"given for kind {kind!r}", None)
    _typed(argument, matrix, FACTORS)
    _shaped(argument, matrix, (neurons, neurons))
    _beside(argument, matrix, like)


def compensation(
    delta: Tensor,
    mask: Tensor,
    hessian: Tensor | None,
    axis: str,
    kind: str,
    task_hessian: Tensor | None,
    task_weight: float,
    damping: float,
    block_size: int | None,
) -> None:
    """Arguments of `compensation` and `compensation_ex`."""
    _floating("delta", delta, 2, "[out, in]")
    _neurons(mask, delta, axis)
    _choice("kind", kind, KINDS)
    _damping(damping, block_size)
    _non_negative("task_weight", task_weight)
    if kind != "none":
        _curvature("hessian", hessian, mask.shape[0], kind, delta)
    if kind == "balanced":
        _curvature("task_hessian", task_hessian, mask.shape[0], kind, delta)


def objective(deviation: Tensor, hessian: Tensor, axis: str) -> None:
    """Arguments of `objective`."""
    _floating("deviation", deviation, 2, "[out, in]")
    _choice("axis", axis, AXES)
    _typed("hessian", hessian, FACTORS)
    width = deviation.shape[0 if axis == "output" else 1]
    _shaped("hessian", hessian, (width, width))
    _beside("hessian", hessian, deviation)


def merge(
    base: Tensor,
    tuned: Tensor,
    mask: Tensor,
    deviation: Tensor | None,
    axis: str,
    dtype: torch.dtype,
) -> None:
    """Arguments of `merge`."""
    _pair(base, tuned)
    _neurons(mask, base, axis)
    if not dtype.is_floating_point:
        refuse("dtype", "a floating-point dtype", dtype)
    if deviation is not None:
        _floating("deviation", deviation, 2, "[out, in]")
        _shaped("deviation", deviation, base.shape)
        _beside("deviation", deviation, base)
