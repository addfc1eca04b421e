"""One row per operator. The rows feed opcheck, the oracle tests, the benchmarks and `hcnr info`.

A row knows its public function, its slow twin, seeded inputs of awkward and of large shapes, what
it mutates, how exact it must be, and what it costs. A test compares the rows with what torch has
registered, so an operator without a row fails the suite.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hcnr_kernels import ops, reference, samples, schemas
from hcnr_kernels.compensation import Compensation
from hcnr_kernels.native import native
from hcnr_kernels.samples import Sample
from hcnr_kernels.triton.launch import interpreting, missing

TOLERANCES: Mapping[torch.dtype, float] = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 1e-5,
    torch.float16: 1e-5,
}
"""RMS error over RMS value against float64 on the same inputs, by input dtype.

Low-precision inputs are widened exactly and accumulated in fp32, so they earn no allowance.
"""

TENSOR_CORES = 3e-4
"""The same on a GPU for 16-bit inputs and long sums: tensor cores cut off the low bits of a running
sum, about 5e-9 of it per product added, alike for all neurons (published models of them)."""

SOLVE_TOLERANCES: Mapping[torch.dtype, float] = {**TOLERANCES, torch.float32: 1e-4}
"""The same for factorisations: fp32 rounding times the condition of the samples, about 1e3."""


class Cost(NamedTuple):
    """Operations and bytes that a call cannot avoid."""

    flops: float
    nbytes: float


def _every(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _lower_triangle(result: Tensor) -> tuple[Tensor, ...]:
    """The upper triangle of a Gram is unspecified."""
    return (result.tril(),)


def _not_the_condition(result: Compensation) -> tuple[Tensor, ...]:
    """The condition is a lower bound for two kinds, and has its own test."""
    return result.deviation, result.damping, result.status


@dataclass(frozen=True)
class Operator:
    """One row.

    Attributes:
        name: Of the operator, as in `torch.ops.hcnr`.
        public: The public function; it may hand the operator flattened or defaulted arguments.
        twin: The function of `reference` with the same signature.
        inputs: Awkward and typical small inputs: `inputs(device, dtype)`.
        large: One input worth timing: `large(device, dtype)`.
        cost: Operations and bytes of one input.
        mutates: Public arguments updated in place, the first ones.
        dtypes: Input dtypes to test.
        tolerances: Allowed RMS ratio by input dtype.
        compared: The tensors of a result that the twin must reproduce.
        uses_native: Whether the compiled extension will serve it.
    """

    name: str
    public: Callable[..., Any]
    twin: Callable[..., Any]
    inputs: Callable[[str, torch.dtype], list[Sample]]
    large: Callable[[str, torch.dtype], Sample]
    cost: Callable[[Sample], Cost]
    mutates: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    tolerances: Mapping[torch.dtype, float] = field(default_factory=lambda: TOLERANCES)
    compared: Callable[[Any], tuple[Tensor, ...]] = _every
    uses_native: bool = False

    @property
    def triton(self) -> str | None:
        """The module of `hcnr_kernels.triton` that holds the fused backend, if there is one."""
        return schemas.TRITON_MODULES.get(self.name)

    def backends(self) -> dict[str, str]:
        """Backend -> `available`, or the reason why not."""
        cuda = "available" if torch.cuda.is_available() else "no CUDA device"
        found = {"cpu": "available"}
        if self.triton is None:
            found["cuda"] = cuda
        else:
            found["triton"] = missing() or ("interpreted on the CPU" if interpreting() else cuda)
        if self.uses_native:
            found["native"] = native().reason or "available"
        return found


def _bytes(sample: Sample) -> float:
    """Every tensor of the arguments once."""
    values = (*sample.args, *sample.kwargs.values())
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))


def _fisher_cost(sample: Sample) -> Cost:
    """The cheaper form of method.md (2) for every sample, the Gram's symmetric half left out."""
    scores, x, g, cu_seqlens = sample.args
    own, other = (g, x) if scores.shape[0] == g.shape[1] else (x, g)
    flops = 0.0
    for tokens in cu_seqlens.diff().tolist():
        gram = tokens * tokens * (other.shape[1] + own.shape[1])
        flops += min(gram, 2 * tokens * x.shape[1] * g.shape[1])
    return Cost(flops, _bytes(sample))


def _direct_cost(sample: Sample) -> Cost:
    _, _, x, g, _ = sample.args
    return Cost(2 * x.shape[0] * x.shape[1] * g.shape[1], _bytes(sample))


def _fisher_weight_cost(sample: Sample) -> Cost:
    scores, x, *_ = sample.args
    return Cost(2 * x.shape[0] * scores.numel(), _bytes(sample))


def _token_gram_cost(sample: Sample) -> Cost:
    x, cu_seqlens = sample.args
    pairs = sum(tokens * tokens for tokens in cu_seqlens.diff().tolist())
    return Cost(pairs * x.shape[1], _bytes(sample) + 4 * pairs)


def _gram_cost(sample: Sample) -> Cost:
    _, x = sample.args
    return Cost(x.shape[0] * x.shape[1] ** 2, _bytes(sample))


def _streaming_cost(sample: Sample) -> Cost:
    return Cost(4 * sample.args[0].numel(), _bytes(sample))


def _inverse_cost(sample: Sample) -> Cost:
    hessian = sample.args[0]
    return Cost(hessian.numel() * hessian.shape[-1], 2 * _bytes(sample))


def _compensation_cost(sample: Sample) -> Cost:
    """A full inverse for `sum`, else a factorisation of the restored part; two half products."""
    delta, mask, _ = sample.args
    restored, neurons = int(mask.sum()), mask.shape[0]
    others = delta.numel() // neurons
    solve = neurons**3 if sample.kwargs["kind"] == "sum" else restored**3 / 3
    return Cost(solve + 4 * others * restored * neurons, _bytes(sample))


def _objective_cost(sample: Sample) -> Cost:
    deviation, hessian = sample.args
    return Cost(2 * deviation.numel() * hessian.shape[0], _bytes(sample))


_FACTOR_DTYPES = (torch.float32, torch.float64)

OPERATORS: Mapping[str, Operator] = {
    row.name: row
    for row in (
        Operator(
            name="fisher_output_",
            public=ops.fisher_output_,
            twin=reference.fisher_output_,
            inputs=samples.fisher_output,
            large=samples.large_fisher_output,
            cost=_fisher_cost,
            mutates=("scores",),
        ),
        Operator(
            name="fisher_input_",
            public=ops.fisher_input_,
            twin=reference.fisher_input_,
            inputs=samples.fisher_input,
            large=samples.large_fisher_input,
            cost=_fisher_cost,
            mutates=("scores",),
        ),
        Operator(
            name="fisher_both_",
            public=ops.fisher_both_,
            twin=reference.fisher_both_,
            inputs=samples.fisher_both,
            large=samples.large_fisher_both,
            cost=_direct_cost,
            mutates=("output_scores", "input_scores"),
        ),
        Operator(
            name="fisher_weight_",
            public=ops.fisher_weight_,
            twin=reference.fisher_weight_,
            inputs=samples.fisher_weight,
            large=samples.large_fisher_weight,
            cost=_fisher_weight_cost,
            mutates=("scores",),
        ),
        Operator(
            name="token_gram",
            public=ops.token_gram,
            twin=reference.token_gram,
            inputs=samples.token_gram,
            large=samples.large_token_gram,
            cost=_token_gram_cost,
        ),
        Operator(
            name="gram_",
            public=ops.gram_,
            twin=reference.gram_,
            inputs=samples.gram,
            large=samples.large_gram,
            cost=_gram_cost,
            mutates=("gram",),
            compared=_lower_triangle,
        ),
        Operator(
            name="symmetrize_",
            public=ops.symmetrize_,
            twin=reference.symmetrize_,
            inputs=samples.symmetrize,
            large=samples.large_symmetrize,
            cost=_streaming_cost,
            mutates=("gram",),
            dtypes=_FACTOR_DTYPES,
        ),
        Operator(
            name="perturbation",
            public=ops.perturbation,
            twin=reference.perturbation,
            inputs=samples.perturbation,
            large=samples.large_perturbation,
            cost=_streaming_cost,
        ),
        Operator(
            name="inverse_hessian",
            public=ops.inverse_hessian,
            twin=reference.inverse_hessian,
            inputs=samples.inverse_hessian,
            large=samples.large_inverse_hessian,
            cost=_inverse_cost,
            dtypes=_FACTOR_DTYPES,
            tolerances=SOLVE_TOLERANCES,
            uses_native=True,
        ),
        Operator(
            name="compensation_ex",
            public=ops.compensation_ex,
            twin=reference.compensation_ex,
            inputs=samples.compensation,
            large=samples.large_compensation,
            cost=_compensation_cost,
            compared=_not_the_condition,
            dtypes=_FACTOR_DTYPES,
            tolerances=SOLVE_TOLERANCES,
            uses_native=True,
        ),
        Operator(
            name="objective",
            public=ops.objective,
            twin=reference.objective,
            inputs=samples.objective,
            large=samples.large_objective,
            cost=_objective_cost,
            dtypes=_FACTOR_DTYPES,
        ),
        Operator(
            name="merge",
            public=ops.merge,
            twin=reference.merge,
            inputs=samples.merge,
            large=samples.large_merge,
            cost=_streaming_cost,
        ),
    )
}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of what is expected, in float64; NaN must meet NaN."""
    got, want = actual.detach().double().cpu(), expected.detach().double().cpu()
    if got.shape != want.shape or not torch.equal(got.isnan(), want.isnan()):
        return float("inf")
    difference, scale = (got - want).nan_to_num().norm(), want.nan_to_num().norm()
    return float(difference / scale) if scale > 0 else float(difference)


def operator_table() -> list[tuple[str, str, str]]:
    """Rows (operator, backend, `available` or the reason why not) for `hcnr info`."""
    return [
        (row.name, backend, status)
        for row in OPERATORS.values()
        for backend, status in row.backends().items()
    ]
