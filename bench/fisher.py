"""Cases of the Fisher scores: Gram form, direct form, both axes, element-wise."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, Record, against, rms_ratio, share_of_floor
from bench.timing import normal
from hcnr_kernels.checks import Axis


class Tokens(NamedTuple):
    """Samples of one length, packed; gradients whose scale differs from neuron to neuron."""

    samples: int
    length: int
    x: Tensor
    g: Tensor
    cu_seqlens: Tensor

    @property
    def shape(self) -> str:
        return f"{self.samples} x {self.length} tokens, {self.x.shape[1]} -> {self.g.shape[1]}"

    def split(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.x.split(self.length), self.g.split(self.length), strict=True))

    def batched(self) -> tuple[Tensor, Tensor]:
        return (
            self.x.view(self.samples, self.length, -1),
            self.g.view(self.samples, self.length, -1),
        )


class Squares(NamedTuple):
    """`sum_b (G_b)^2` in float64 by rows, by columns, and by element where wanted."""

    output: Tensor
    input: Tensor
    weight: Tensor | None


def tokens(
    device: torch.device, samples: int, length: int, in_features: int, out_features: int, seed: int
) -> Tokens:
    count = samples * length
    x = normal(count, in_features, device=device, dtype=torch.bfloat16, seed=seed)
    scale = normal(out_features, device=device, dtype=torch.float32, seed=seed + 1).exp()
    g = normal(count, out_features, device=device, dtype=torch.float32, seed=seed + 2) * scale
    offsets = torch.arange(0, count + 1, length, dtype=torch.int32, device=device)
    return Tokens(samples, length, x, g.bfloat16(), offsets)


def exact(data: Tokens, *, weight: bool = False) -> Squares:
    """Method.md (1) as it is written: every sample's gradient, in float64."""
    whole = None
    output = torch.zeros(data.g.shape[1], dtype=torch.float64, device=data.x.device)
    column = torch.zeros(data.x.shape[1], dtype=torch.float64, device=data.x.device)
    for x, g in data.split():
        square = (g.double().T @ x.double()).square_()
        output += square.sum(1)
        column += square.sum(0)
        if weight:
            whole = square if whole is None else whole.add_(square)
    return Squares(output, column, whole)


def _short(device: torch.device, small: bool) -> Tokens:
    """Where the Gram form is at home."""
    return tokens(device, *((4, 32, 64, 96) if small else (128, 256, 4096, 4096)), seed=10)


def _long(device: torch.device, small: bool) -> Tokens:
    """Where the direct form is: method.md (2) crosses over at 3186 tokens here."""
    return tokens(device, *((2, 80, 48, 96) if small else (2, 4096, 4096, 14336)), seed=20)


def _zeros(*sizes: int | tuple[int, ...], like: Tokens) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: tuple(torch.zeros(size, device=like.x.device) for size in sizes)


def _roof_or_bytes(record: Record) -> float:
    """1 where the target of the Gram form is met either way."""
    time = record["ms"]["p50"]
    return max(record["flops_floor_ms"] / time / 0.6, 1.5 * record["bytes_floor_ms"] / time)


ROOF_OR_BYTES = "60 % of the bf16 roof or 1.5x the byte floor; 1 is met"


def _fp32_product(left: Tensor, right: Tensor) -> Tensor:
    """Batched product of bf16 tensors, kept in fp32."""
    if left.device.type == "cuda":
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def gram_given(device: torch.device, small: bool) -> Case:
    data = _short(device, small)
    gram = hk.token_gram(data.x, data.cu_seqlens, max_seqlen=data.length)
    _, g = data.batched()
    blocks = gram.view(data.samples, data.length, data.length)
    reference = cache(lambda: exact(data).output)

    def ours(scores: Tensor) -> Tensor:
        return hk.fisher_output_(
            scores, data.x, data.g, data.cu_seqlens, token_gram=gram, max_seqlen=data.length
        )

    def in_bf16(scores: Tensor) -> Tensor:
        product = torch.bmm(blocks.bfloat16(), g)
        return scores.add_((product * g).sum((0, 1), dtype=torch.float32))

    def in_fp32(scores: Tensor) -> Tensor:
        wide = g.float()
        return scores.add_(torch.bmm(blocks, wide).mul_(wide).sum((0, 1)))

    pairs = data.samples * data.length**2
    return Case(
        title="fisher_output_, token Gram given",
        shape=data.shape,
        dtype=torch.bfloat16,
        run=ours,
        accumulators=_zeros(data.g.shape[1], like=data),
        error=lambda found: rms_ratio(found[0], reference()),
        # K is symmetric: half of it is multiplied, but as two bf16 numbers.
        flops=2 * pairs * data.g.shape[1],
        nbytes=data.g.nbytes + gram.nbytes / 2,
        rivals={"bmm, K rounded to bf16": in_bf16, "bmm in fp32": in_fp32},
        goal=Goal(ROOF_OR_BYTES, _roof_or_bytes, 1.0, prediction=0.65),
        note="K as hi + lo bf16: twice the operations of one bf16 product",
    )


def token_gram(device: torch.device, small: bool) -> Case:
    data = _short(device, small)
    x, _ = data.batched()
    samples = data.samples
    reference = cache(lambda: torch.cat([one.double() @ one.double().T for one in x]))
    pairs = samples * data.length**2
    return Case(
        title="token_gram",
        shape=f"{samples} x {data.length} tokens, {data.x.shape[1]}",
        dtype=torch.bfloat16,
        run=lambda: hk.token_gram(data.x, data.cu_seqlens, max_seqlen=data.length),
        error=lambda found: rms_ratio(found[0].view(-1, data.length), reference()),
        flops=pairs * data.x.shape[1],
        nbytes=data.x.nbytes + 4 * pairs,
        rivals={"bmm, fp32 result": lambda: _fp32_product(x, x.mT)},
        goal=Goal(ROOF_OR_BYTES, _roof_or_bytes, 1.0, prediction=0.95),
    )


def gram_form(device: torch.device, small: bool) -> Case:
    data = _short(device, small)
    x, g = data.batched()
    reference = cache(lambda: exact(data).output)

    def ours(scores: Tensor) -> Tensor:
        return hk.fisher_output_(scores, data.x, data.g, data.cu_seqlens, max_seqlen=data.length)

    def rival(scores: Tensor) -> Tensor:
        product = torch.bmm(torch.bmm(x, x.mT), g)
        return scores.add_((product * g).sum((0, 1), dtype=torch.float32))

    pairs = data.samples * data.length**2
    return Case(
        title="fisher_output_, Gram form in all",
        shape=data.shape,
        dtype=torch.bfloat16,
        run=ours,
        accumulators=_zeros(data.g.shape[1], like=data),
        error=lambda found: rms_ratio(found[0], reference()),
        flops=pairs * (data.x.shape[1] + 2 * data.g.shape[1]),
        nbytes=data.x.nbytes + data.g.nbytes,
        rivals={"two bmm in bf16": rival},
        goal=Goal("share of the floor", share_of_floor, prediction=0.4),
    )


YARDSTICK = "cuBLAS product of the same flops"


def _products(data: Tokens) -> Callable[..., None]:
    """The yardstick of the direct form: the gradients alone, squared by nobody."""

    def run(*_: Tensor) -> None:
        for x, g in data.split():
            torch.mm(g.T, x)

    return run


def _in_torch(data: Tokens, axis: int) -> Callable[[Tensor], Tensor]:
    """The direct form in plain torch, with the squares in fp32."""

    def run(scores: Tensor) -> Tensor:
        for x, g in data.split():
            scores += torch.mm(g.T, x).float().square_().sum(axis)
        return scores

    return run


def _direct_flops(data: Tokens) -> float:
    return 2 * data.samples * data.length * data.x.shape[1] * data.g.shape[1]


def direct(axis: Axis, device: torch.device, small: bool) -> Case:
    data = _long(device, small)
    operator = hk.fisher_output_ if axis == "output" else hk.fisher_input_
    own, across = (data.g, 1) if axis == "output" else (data.x, 0)
    reference = cache(lambda: exact(data))
    return Case(
        title=f"fisher_{axis}_, direct form",
        shape=data.shape,
        dtype=torch.bfloat16,
        run=lambda scores: operator(
            scores, data.x, data.g, data.cu_seqlens, form="direct", max_seqlen=data.length
        ),
        accumulators=_zeros(own.shape[1], like=data),
        error=lambda found: rms_ratio(found[0], getattr(reference(), axis)),
        flops=_direct_flops(data),
        nbytes=data.x.nbytes + data.g.nbytes,
        rivals={YARDSTICK: _products(data), "mm, square, sum": _in_torch(data, across)},
        goal=Goal(f"speed of the {YARDSTICK}", against(YARDSTICK), 0.7, prediction=0.78),
    )


def both(device: torch.device, small: bool) -> Case:
    data = _long(device, small)
    reference = cache(lambda: exact(data))

    def error(results: tuple[Tensor, ...]) -> float:
        squares = reference()
        return max(rms_ratio(results[0], squares.output), rms_ratio(results[1], squares.input))

    def two_calls(output: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        spans = {"form": "direct", "max_seqlen": data.length}
        hk.fisher_output_(output, data.x, data.g, data.cu_seqlens, **spans)
        return output, hk.fisher_input_(column, data.x, data.g, data.cu_seqlens, **spans)

    return Case(
        title="fisher_both_",
        shape=data.shape,
        dtype=torch.bfloat16,
        run=lambda output, column: hk.fisher_both_(output, column, data.x, data.g, data.cu_seqlens),
        accumulators=_zeros(data.g.shape[1], data.x.shape[1], like=data),
        error=error,
        flops=_direct_flops(data),
        nbytes=data.x.nbytes + data.g.nbytes,
        rivals={YARDSTICK: _products(data), "our two axes, one by one": two_calls},
        goal=Goal(f"speed of the {YARDSTICK}", against(YARDSTICK), prediction=0.7),
    )


def weight(device: torch.device, small: bool) -> Case:
    data = _long(device, small)
    shape = (data.g.shape[1], data.x.shape[1])
    reference = cache(lambda: exact(data, weight=True).weight)

    def error(results: tuple[Tensor, ...]) -> float:
        squares = reference()
        assert squares is not None
        return rms_ratio(results[0], squares)

    def rival(scores: Tensor) -> Tensor:
        for x, g in data.split():
            scores += torch.mm(g.T, x).float().square_()
        return scores

    return Case(
        title="fisher_weight_",
        shape=data.shape,
        dtype=torch.bfloat16,
        run=lambda scores: hk.fisher_weight_(scores, data.x, data.g, data.cu_seqlens),
        accumulators=_zeros(shape, like=data),
        error=error,
        flops=_direct_flops(data),
        nbytes=data.x.nbytes + data.g.nbytes + 8 * shape[0] * shape[1],
        rivals={YARDSTICK: _products(data), "mm, square, add": rival},
        goal=Goal(f"speed of the {YARDSTICK}", against(YARDSTICK), prediction=0.65),
    )


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    "gram_given": gram_given,
    "token_gram": token_gram,
    "gram_form": gram_form,
    "direct_output": partial(direct, "output"),
    "direct_input": partial(direct, "input"),
    "both": both,
    "weight": weight,
}
