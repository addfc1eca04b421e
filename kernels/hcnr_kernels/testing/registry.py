"""One row per operator. The rows feed opcheck, the oracle tests and the benchmarks.

A row knows its public function, its slow twin, seeded inputs of awkward and of large shapes, what
it mutates, how exact it must be, and what it costs. A test compares the rows with what torch has
registered, so an operator without a row fails the suite.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hcnr_kernels.library import REGISTERED
from hcnr_kernels.ops import compensation, fisher, gram, inverse, merge, perturbation
from hcnr_kernels.testing import costs, inputs, large, reference
from hcnr_kernels.testing.accuracy import SOLVE_TOLERANCES, TOLERANCES
from hcnr_kernels.testing.costs import Cost
from hcnr_kernels.testing.inputs import Sample


def _every(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _lower_triangle(result: Tensor) -> tuple[Tensor, ...]:
    """The upper triangle of a Gram is unspecified."""
    return (result.tril(),)


def _sum_of_planes(result: Tensor) -> tuple[Tensor, ...]:
    """What two planes of bf16 stand for."""
    return (result.sum(0, dtype=torch.float64),)


def _not_the_condition(result: compensation.Compensation) -> tuple[Tensor, ...]:
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

    @property
    def triton(self) -> str | None:
        """The module that holds the fused backend, if there is one."""
        return REGISTERED[self.name].triton


_FACTOR_DTYPES = (torch.float32, torch.float64)

OPERATORS: Mapping[str, Operator] = {
    row.name: row
    for row in (
        Operator(
            name="fisher_output_",
            public=fisher.fisher_output_,
            twin=reference.fisher_output_,
            inputs=inputs.fisher_output,
            large=large.fisher_output,
            cost=costs.fisher,
            mutates=("scores",),
        ),
        Operator(
            name="fisher_input_",
            public=fisher.fisher_input_,
            twin=reference.fisher_input_,
            inputs=inputs.fisher_input,
            large=large.fisher_input,
            cost=costs.fisher,
            mutates=("scores",),
        ),
        Operator(
            name="fisher_both_",
            public=fisher.fisher_both_,
            twin=reference.fisher_both_,
            inputs=inputs.fisher_both,
            large=large.fisher_both,
            cost=costs.direct,
            mutates=("output_scores", "input_scores"),
        ),
        Operator(
            name="fisher_weight_",
            public=fisher.fisher_weight_,
            twin=reference.fisher_weight_,
            inputs=inputs.fisher_weight,
            large=large.fisher_weight,
            cost=costs.fisher_weight,
            mutates=("scores",),
        ),
        Operator(
            name="token_gram",
            public=fisher.token_gram,
            twin=reference.token_gram,
            inputs=inputs.token_gram,
            large=large.token_gram,
            cost=costs.token_gram,
        ),
        Operator(
            name="split_token_gram",
            public=fisher.split_token_gram,
            twin=reference.split_token_gram,
            inputs=inputs.token_gram,
            large=large.token_gram,
            cost=costs.token_gram,
            compared=_sum_of_planes,
        ),
        Operator(
            name="gram_",
            public=gram.gram_,
            twin=reference.gram_,
            inputs=inputs.gram,
            large=large.gram,
            cost=costs.gram,
            mutates=("gram",),
            compared=_lower_triangle,
        ),
        Operator(
            name="symmetrize_",
            public=gram.symmetrize_,
            twin=reference.symmetrize_,
            inputs=inputs.symmetrize,
            large=large.symmetrize,
            cost=costs.streaming,
            mutates=("gram",),
            dtypes=_FACTOR_DTYPES,
        ),
        Operator(
            name="perturbation",
            public=perturbation.perturbation,
            twin=reference.perturbation,
            inputs=inputs.perturbation,
            large=large.perturbation,
            cost=costs.streaming,
        ),
        Operator(
            name="inverse_hessian",
            public=inverse.inverse_hessian,
            twin=reference.inverse_hessian,
            inputs=inputs.inverse_hessian,
            large=large.inverse_hessian,
            cost=costs.inverse,
            dtypes=_FACTOR_DTYPES,
            tolerances=SOLVE_TOLERANCES,
        ),
        Operator(
            name="compensation_ex",
            public=compensation.compensation_ex,
            twin=reference.compensation_ex,
            inputs=inputs.compensation,
            large=large.compensation,
            cost=costs.compensation,
            compared=_not_the_condition,
            dtypes=_FACTOR_DTYPES,
            tolerances=SOLVE_TOLERANCES,
        ),
        Operator(
            name="objective",
            public=compensation.objective,
            twin=reference.objective,
            inputs=inputs.objective,
            large=large.objective,
            cost=costs.objective,
            dtypes=_FACTOR_DTYPES,
        ),
        Operator(
            name="objectives",
            public=compensation.objectives,
            twin=reference.objectives,
            inputs=inputs.objectives,
            large=large.objectives,
            cost=costs.objectives,
            dtypes=_FACTOR_DTYPES,
        ),
        Operator(
            name="merge",
            public=merge.merge,
            twin=reference.merge,
            inputs=inputs.merge,
            large=large.merge,
            cost=costs.streaming,
        ),
    )
}
