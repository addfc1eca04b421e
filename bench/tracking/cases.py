"""The calls whose counts are kept, at stated shapes; what reads values runs on small tensors."""

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from bench.passes import llama, random_samples
from bench.tracking.counting import Count, count, kernels_of
from bench.tracking.elimination import cost_of
from hcnr.curvature.passes import prepared, sample_losses
from hcnr.data.batches import collate
from hcnr_kernels import native
from hcnr_kernels.ops.compensation import triton as objectives
from hcnr_kernels.ops.compensation import vectorised as compensation
from hcnr_kernels.ops.fisher import triton as fisher
from hcnr_kernels.ops.gram import triton as gram
from hcnr_kernels.ops.inverse.condition import condition_bound
from hcnr_kernels.ops.inverse.factor import Cholesky, cholesky_, inverse_rows_, invert_
from hcnr_kernels.ops.inverse.solves import solver_of
from hcnr_kernels.ops.inverse.tiling import GPU_TILING
from hcnr_kernels.ops.merge import triton as merge
from hcnr_kernels.ops.perturbation import triton as perturbation
from hcnr_kernels.testing import costs
from hcnr_kernels.testing.inputs import Sample
from hcnr_kernels.testing.tensors import curvature, randn
from hcnr_kernels.triton.launch import recording

BF16 = torch.bfloat16
SAMPLES, LENGTH, HIDDEN, WIDE = 32, 256, 4096, 14336
BLOCK = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096),
         "gate": (14336, 4096), "up": (14336, 4096), "down": (4096, 14336)}  # fmt: skip
"""Matrices `[out, in]` of a block of Llama-3.1-8B."""

SIZES = (1024, 4096, 14336)
_empty = functools.partial(torch.empty, device="meta")


@dataclass(frozen=True)
class TrackedCall:
    """A row of the table.

    Attributes:
        name: what is called.
        shape: of what.
        on: `H100` as chosen for one, or `CPU`.
        count: counts it.
        triton: what starts its Triton kernels; None where there are none.
    """

    name: str
    shape: str
    on: str
    count: Callable[[], Count]
    triton: Callable[[], object] | None = None

    @property
    def title(self) -> str:
        return f"{self.name}, {self.shape} ({self.on})"


def tracked_calls() -> Iterator[TrackedCall]:
    """All rows, in the order of the table."""
    yield from _scores()
    yield from _streams()
    yield from _factorisations()
    yield from _compensations()
    yield from _objectives()
    yield from _heads()


def _fused(
    name: str,
    shape: str,
    call: Callable[[], object],
    operations: float | None = None,
    nbytes: int | None = None,
) -> TrackedCall:
    counts = functools.partial(count, call, operations=operations, nbytes=nbytes)
    return TrackedCall(name, shape, "H100", counts, call)


def _scores() -> Iterator[TrackedCall]:
    """Samples of equal lengths: `up` of an 8B block."""
    tokens = SAMPLES * LENGTH
    shape = f"{SAMPLES} x {LENGTH} tokens, {HIDDEN} -> {WIDE}, bf16"
    x, g = _empty(tokens, HIDDEN, dtype=BF16), _empty(tokens, WIDE, dtype=BF16)
    bounds = torch.arange(SAMPLES + 1, dtype=torch.int32) * LENGTH
    spans = _empty(SAMPLES + 1, dtype=torch.int32), None

    def row(name: str, scores: tuple[Tensor, ...], call: Callable[[], object]) -> TrackedCall:
        cost = {"fisher_both_": costs.direct, "fisher_weight_": costs.fisher_weight}
        sample = Sample("", (*scores, x, g, bounds), {})
        return _fused(name, shape, call, cost.get(name, costs.fisher)(sample).flops)

    out, into, whole = _empty(WIDE), _empty(HIDDEN), _empty(WIDE, HIDDEN)
    form = "auto", None, LENGTH
    yield row("fisher_output_", (out,), lambda: fisher.fisher_output_(out, x, g, *spans, *form))
    yield row("fisher_input_", (into,), lambda: fisher.fisher_input_(into, x, g, *spans, *form))
    yield row("fisher_both_", (out, into), lambda: fisher.fisher_both_(out, into, x, g, *spans))
    yield row("fisher_weight_", (whole,), lambda: fisher.fisher_weight_(whole, x, g, *spans))
    yield _fused(
        "token_gram",
        f"{SAMPLES} x {LENGTH} tokens, {HIDDEN}, bf16",
        lambda: fisher.token_gram(x, *spans, LENGTH),
        costs.token_gram(Sample("", (x, bounds), {})).flops,
    )
    yield _block()


def _block() -> TrackedCall:
    """The default axis as a run scores it: one Gram for q, k and v, one for gate and up."""
    tokens = SAMPLES * LENGTH
    spans = _empty(SAMPLES + 1, dtype=torch.int32), None
    readers = ("q", "k", "v"), ("o",), ("gate", "up"), ("down",)
    read = [_empty(tokens, BLOCK[names[0]][1], dtype=BF16) for names in readers]
    written = {name: _empty(tokens, shape[0], dtype=BF16) for name, shape in BLOCK.items()}

    def scores() -> None:
        for names, x in zip(readers, read, strict=True):
            planes = fisher.split_token_gram(x, *spans, LENGTH)
            for name in names:
                sums, g = _empty(BLOCK[name][0]), written[name]
                fisher.fisher_output_(sums, x, g, *spans, "auto", planes, LENGTH)

    widths = sum(x.shape[1] for x in read) + sum(g.shape[1] for g in written.values())
    shape = f"{SAMPLES} x {LENGTH} tokens, bf16"
    return _fused("scores of an 8B block, output axis", shape, scores, SAMPLES * LENGTH**2 * widths)


def _streams() -> Iterator[TrackedCall]:
    tokens = SAMPLES * LENGTH
    for width in (HIDDEN, WIDE):
        total, x = _empty(width, width), _empty(tokens, width, dtype=BF16)
        flops = costs.gram(Sample("", (total, x), {})).flops
        call = functools.partial(gram.gram_, total, x)
        yield _fused("gram_", f"{tokens} tokens, {width}, bf16", call, flops)
    square = _empty(HIDDEN, HIDDEN)
    yield _fused("symmetrize_", f"{HIDDEN}, fp32", lambda: gram.symmetrize_(square))
    weights = [tuple(_empty(*shape, dtype=BF16) for _ in range(2)) for shape in BLOCK.values()]
    masks = [_empty(shape[0], dtype=torch.bool) for shape in BLOCK.values()]
    # What a run asks for: the candidates of all samples, and of either half of them.
    voters = [_empty(3, shape[0], dtype=torch.bool) for shape in BLOCK.values()]

    def norms(candidates: list[Tensor]) -> None:
        for (base, tuned), mask in zip(weights, candidates, strict=True):
            perturbation.perturbation(base, tuned, mask, "output")

    block = "the 7 matrices of an 8B block"
    yield _fused("perturbation", f"{block}, bf16", functools.partial(norms, masks))
    yield _fused("perturbation", f"{block}, three masks, bf16", functools.partial(norms, voters))
    base, tuned = weights[4]
    for deviation in (None, _empty(WIDE, HIDDEN)):
        call = functools.partial(merge.merge, base, tuned, masks[4], deviation, "output", BF16)
        plain = "without E" if deviation is None else "with E"
        yield _fused("merge", f"{WIDE} x {HIDDEN}, bf16, {plain}", call)


def _factorisations() -> Iterator[TrackedCall]:
    """What one damped curvature takes on a GPU, fp32, whole.

    Of an elimination all operations and bytes of its programs are counted: `d^3 / 3` and `d^3` are
    what a factor and an inverse cannot avoid.
    """
    tiling = GPU_TILING

    def factor(width: int, split: int | None) -> Cholesky:
        return cholesky_(_empty(width, width), tiling, split or 0, rows=split is not None)

    def rows(width: int) -> object:
        return inverse_rows_(factor(width, width // 2), width // 2, tiling)

    def bound(width: int, split: int | None) -> Count:
        with recording(90):
            factored = factor(width, split)
        unit = _empty(1, 1, width, dtype=torch.bool)
        return count(lambda: condition_bound(solver_of(factored), _empty(1), unit))

    def eliminated(name: str, width: int, call: Callable[[], object]) -> TrackedCall:
        costs = [cost_of(launch) for launch in kernels_of(call, 90)]
        operations = sum(cost.operations for cost in costs)
        nbytes = sum(cost.nbytes for cost in costs)
        return _fused(name, f"{width}, fp32", call, operations, nbytes)

    for width in SIZES:
        yield eliminated("Cholesky factor", width, functools.partial(factor, width, None))
        inverse = functools.partial(invert_, _empty(width, width), tiling)
        yield eliminated("damped inverse", width, inverse)
        name = "factor and half of the inverse's rows"
        yield eliminated(name, width, functools.partial(rows, width))
        for name, of, split in (("", width, width // 2), (" of joint", width // 2, None)):
            counted = functools.partial(bound, of, split)
            yield TrackedCall(f"condition{name}", f"{width}, fp32", "H100", counted)


def _compensations() -> Iterator[TrackedCall]:
    """Whole calls on a CPU, without the compiled extension: 1024 neurons, half of them restored."""
    neurons, lines = 1024, 512
    mask = torch.arange(neurons) % 2 == 0

    def counted(kind: str) -> Count:
        delta = randn(neurons, lines, device="cpu", dtype=torch.float32)
        hessian = curvature(neurons, device="cpu", dtype=torch.float32)
        task = hessian if kind == "balanced" else None
        with mock.patch.object(native, "takes", lambda *_: False):
            return count(
                lambda: compensation.compensation_ex(
                    delta, mask, hessian, "output", kind, task, 1.0, 0.01, None
                )
            )

    for kind in ("sum", "joint", "balanced"):
        yield TrackedCall(f"compensation, {kind}", f"{neurons} x {lines}, fp32", "CPU",
                          functools.partial(counted, kind))  # fmt: skip


def _objectives() -> Iterator[TrackedCall]:
    """The report's two objectives of one matrix, with and without compensation.

    Half of `E^T E` from each pair of E's two bf16 halves: four half products.
    """
    for neurons, lines in ((HIDDEN, WIDE), (WIDE, HIDDEN)):
        arguments = _empty(lines, neurons), _empty(neurons, dtype=torch.bool)
        both = functools.partial(
            objectives.objectives, *arguments, _empty(neurons, neurons), "input"
        )
        shape = f"{neurons} neurons x {lines}, fp32"
        yield _fused("both objectives", shape, both, 4 * lines * neurons**2)


def _heads() -> Iterator[TrackedCall]:
    """Losses of a small Llama: samples of mixed lengths, the last 16 tokens carry loss."""
    vocabulary = 4096
    for lengths in ([64] * 8, [24, 32, 40, 48, 56, 64, 72, 80]):
        words = f"{lengths[0]}" if len(set(lengths)) == 1 else f"{lengths[0]} to {lengths[-1]}"

        def losses(lengths=lengths) -> Count:
            model = llama(torch.device("cpu"), torch.float32, hidden_size=64, intermediate_size=160,
                          num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1,
                          vocab_size=vocabulary)  # fmt: skip
            data = random_samples(lengths, 16, vocabulary)
            batch = collate(data.samples, list(range(len(lengths))), pad_token_id=0)
            with prepared(model):
                return count(lambda: sample_losses(model, batch).sum().backward())

        shape = f"8 samples of {words} tokens, 64 -> {vocabulary}"
        yield TrackedCall("losses and their gradient", shape, "CPU", losses)


def counted() -> dict[str, Count]:
    """Count every row."""
    rows = list(tracked_calls())
    titles = [row.title for row in rows]
    assert len(set(titles)) == len(titles), [
        one for one, other in itertools.pairwise(sorted(titles)) if one == other
    ]
    return {row.title: row.count() for row in rows}
