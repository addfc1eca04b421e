"""Method.md (10): two-sided repair in the basis in which both curvatures are diagonal.

`spectral_basis` is a plain function, not a registered operator: its result is an object, whose
widths depend on the route taken, and which is asked again for any number of task weights.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hcnr_kernels.checks import refuse
from hcnr_kernels.ops.inverse.blocks import all_finite
from hcnr_kernels.ops.spectral.coordinates import Blocks, analyse, synthesise
from hcnr_kernels.ops.spectral.forecast import TaskEnergy, task_energy
from hcnr_kernels.ops.spectral.kept import Kept, compared, kept
from hcnr_kernels.ops.spectral.modes import Modes
from hcnr_kernels.ops.spectral.token_space import (
    SecondMoment,
    as_dtype,
    check_moment,
    modes_of,
    raise_if_not_finite,
)


@dataclass(frozen=True, eq=False)
class SpectralBasis:
    """The basis of method.md (10) of one matrix: every task weight mu costs two products.

    Internally the directions of an axis have length one in the sum of both curvatures, of which
    they have shares h (honesty) and t (task): `modes`. (10) is recovered by `a = t / h` and
    `v / sqrt(h)`. Its filter `mu g a / (1 + mu g a)` is `mu t t' / (h h' + mu t t')`, which no mu
    overflows.

    Attributes:
        output: Directions of the output axis.
        input: Directions of the input axis.
        delta: `W1 - W0` cut by them.
    """

    output: Modes
    input: Modes
    delta: Blocks

    @property
    def U(self) -> Tensor:
        """`[out, k]` explicit directions of the output axis, `U^T G_h U = I`."""
        return self.output.explicit / self.output.honesty.sqrt()

    @property
    def g(self) -> Tensor:
        """`[k]` eigenvalues, `G_t u = g G_h u`; each of the other `out - k` is one."""
        return self.output.task / self.output.honesty

    @property
    def V(self) -> Tensor:
        """`[in, k]` explicit directions of the input axis, `V^T A_h V = I`."""
        return self.input.explicit / self.input.honesty.sqrt()

    @property
    def a(self) -> Tensor:
        """`[k]` eigenvalues, `A_t v = a A_h v`; each of the other `in - k` is one."""
        return self.input.task / self.input.honesty

    @property
    def Y(self) -> Tensor:
        """`[k_out, k_in]` coordinates of delta, `U^T G_h delta A_h V`."""
        return self.delta.both * torch.outer(self.output.honesty.sqrt(), self.input.honesty.sqrt())

    @property
    def device(self) -> torch.device:
        """Where everything is, and where E and the step come out."""
        return self.delta.both.device

    @property
    def damping(self) -> tuple[float, float]:
        """Damping used on the output and the input axis, as a share of the mean diagonals."""
        return self.output.damping, self.input.damping

    @property
    def condition(self) -> tuple[float, float]:
        """Condition of what was factorised, output and input axis: Hager's lower bounds."""
        return self.output.condition, self.input.condition

    @property
    def routes(self) -> tuple[str, str]:
        """`dense`, `blocks` or `tokens`, of the output and the input axis."""
        return self.output.route, self.input.route

    @torch.no_grad()
    def deviation(self, task_weight: float) -> Tensor:
        """E `[out, in]` of method.md (10): `U [mu g a / (1 + mu g a) * Y] V^T`.

        Args:
            task_weight: mu, finite, >= 0: zero is base, E = 0; the limit of a large one is tuned.
        """
        honesty, task = self._curvatures(task_weight)
        weight = task.div_(honesty.add_(task))
        with _without_autocast(weight):
            return synthesise(self.delta, weight, self.output, self.input)

    @torch.no_grad()
    def natural_step(self, gradient: Tensor, task_weight: float) -> Tensor:
        """S of method.md (12), `-U [(U^T gradient V) / (1 + mu g a)] V^T`, unscaled: `[out, in]`.

        The step that lowers the loss fastest for what it costs in the curvature
        `G_h (x) A_h + mu G_t (x) A_t`, each divided by its mean diagonal and damped.

        Args:
            gradient: `[out, in]` floating point: the mean honesty gradient of the matrix.
            task_weight: mu, finite, >= 0.
        """
        honesty, task = self._curvatures(task_weight)
        _check_matrix("gradient", gradient, (self.output.width, self.input.width), like=honesty)
        weight = honesty.add_(task).reciprocal_().neg_()
        with _without_autocast(weight):
            blocks = analyse(gradient.to(weight.dtype), self.output, self.input, dual=False)
            return synthesise(blocks, weight, self.output, self.input)

    @torch.no_grad()
    def kept(self, task_weight: float) -> Kept:
        """How much of delta E keeps along the eigenvalue spectrum, for a report.

        Args:
            task_weight: mu, finite, >= 0.
        """
        _check_task_weight(task_weight)
        return kept(self.delta, self.output, self.input, task_weight)

    @torch.no_grad()
    def compared(self, deviation: Tensor) -> Kept:
        """The same of a deviation that was found otherwise, such as one after natural steps.

        Args:
            deviation: E `[out, in]`, floating point.
        """
        _check_matrix(
            "deviation", deviation, (self.output.width, self.input.width), like=self.delta.both
        )
        with _without_autocast(deviation):
            matrix = deviation.to(self.delta.both.dtype)
            others = analyse(matrix, self.output, self.input, dual=True)
            return compared(self.delta, others, self.output, self.input)

    @torch.no_grad()
    def task_energy(self) -> TaskEnergy:
        """What every task weight costs the task, in units of both curvatures' mean diagonals."""
        return task_energy(self.delta, self.output, self.input)

    def _curvatures(self, task_weight: float) -> tuple[Tensor, Tensor]:
        """`h h'` and `mu t t'` of every pair of directions, in the layout of `Modes.shares`."""
        _check_task_weight(task_weight)
        (output_honesty, output_task, _), (input_honesty, input_task, _) = (
            self.output.shares,
            self.input.shares,
        )
        largest = torch.finfo(output_honesty.dtype).max / 4
        return (
            torch.outer(output_honesty, input_honesty),
            torch.outer(output_task * min(task_weight, largest), input_task),
        )


@torch.no_grad()
def spectral_basis(
    delta: Tensor,
    honesty: tuple[SecondMoment, SecondMoment],
    task: tuple[SecondMoment, SecondMoment],
    *,
    damping: float = 0.01,
    block_size: int | None = None,
    shared: SpectralBasis | Modes | None = None,
    name: str | None = None,
) -> SpectralBasis:
    """Factorise method.md (10) for one matrix, once for all task weights and steps.

    Each second moment is divided by its mean diagonal and damped; if one of an axis is not positive
    definite, both get the next values of `DAMPING_LADDER`. A second moment is a matrix `[d, d]`, or
    `Tokens`, or a `RankedGram`. Where both of an axis come from few tokens the work is done in
    their span, by the rule of `token_space.tokens_are_cheaper`, and costs no `d^3`. With a block
    size b only diagonal blocks of every second moment are used, divided by the mean diagonal of the
    whole: that costs `d b^2`, and coordinates cost `2 d d' b`.

    Args:
        delta: `W1 - W0 [out, in]`; all is computed in fp32, in float64 for a float64 delta.
        honesty: `(A_h, G_h)`: second moments of the inputs, `in` wide, and of the output gradients,
            `out` wide, on the honesty data. Symmetry is not verified.
        task: `(A_t, G_t)`, likewise on the task data.
        damping: Share of the mean diagonal, >= 0, the first level of the ladder.
        block_size: Neurons of a diagonal block, >= 1, the last may have fewer; None takes second
            moments whole. What is given as `BlockDiagonal` has its own blocks.
        shared: The basis of a matrix that reads the same inputs, from the same second moments and
            damping, or its `input` alone: these directions are taken over, not computed again.
        name: The matrix, for errors.

    Raises:
        OperatorError: An argument has the wrong shape, dtype, device or value.
        FactorizationError: A second moment holds NaN or infinity, or stays indefinite.
    """
    if not (math.isfinite(damping) and damping >= 0):
        refuse("damping", "a finite number >= 0", damping)
    if block_size is not None and block_size < 1:
        refuse("block_size", ">= 1 or None", block_size)
    _check_matrix("delta", delta, None, like=delta)
    out, width = delta.shape
    for argument, pair in (("honesty", honesty), ("task", task)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            refuse(argument, "a pair (inputs, output gradients)", type(pair).__name__)
        check_moment(f"{argument}[0]", pair[0], width, delta)
        check_moment(f"{argument}[1]", pair[1], out, delta)
    dtype = torch.promote_types(torch.float32, delta.dtype)
    shared_input = shared.input if isinstance(shared, SpectralBasis) else shared
    if shared_input is not None:
        shared_vectors = shared_input.vectors
        if (shared_input.width, shared_vectors.dtype, shared_vectors.device) != (
            width,
            dtype,
            delta.device,
        ):
            refuse(
                "shared",
                f"a basis of {width} inputs in {dtype} on {delta.device}",
                f"{shared_input.width} in {shared_vectors.dtype} on {shared_vectors.device}",
            )
    axes = list(zip(honesty, task, strict=True))
    names = [
        [f"{name or 'the matrix'} ({data}, {axis})" for data in ("honesty", "task")]
        for axis in ("input", "output")
    ]
    for pair, pair_names in zip(axes, names, strict=True):
        raise_if_not_finite(pair, pair_names)

    def modes(which: int) -> Modes:
        honesty_moment, task_moment = axes[which]
        pair = as_dtype(honesty_moment, dtype), as_dtype(task_moment, dtype)
        return modes_of(*pair, damping, names[which], block_size)

    with _without_autocast(delta):
        input_modes = modes(0) if shared_input is None else shared_input
        output_modes = modes(1)
        blocks = analyse(delta.to(dtype), output_modes, input_modes, dual=True)
    return SpectralBasis(output_modes, input_modes, blocks)


@contextlib.contextmanager
def _without_autocast(like: Tensor) -> Iterator[None]:
    """A caller's autocast would round the products to its dtype."""
    if like.device.type not in ("cpu", "cuda"):
        yield
        return
    with torch.autocast(like.device.type, enabled=False):
        yield


def _check_task_weight(task_weight: float) -> None:
    if not (math.isfinite(task_weight) and task_weight >= 0):
        refuse("task_weight", "a finite number >= 0", task_weight)


def _check_matrix(
    argument: str, matrix: Tensor, shape: tuple[int, int] | None, *, like: Tensor
) -> None:
    """Refuse anything but a finite floating-point matrix, of a shape if one is given."""
    misshapen = matrix.dim() != 2 or 0 in matrix.shape or (shape and tuple(matrix.shape) != shape)
    if misshapen or not matrix.dtype.is_floating_point or matrix.device != like.device:
        refuse(
            argument,
            f"floating-point of shape {shape or '[out, in]'} on {like.device}",
            f"{matrix.dtype} of shape {tuple(matrix.shape)} on {matrix.device}",
        )
    if not bool(all_finite(matrix[None])):
        refuse(argument, "finite", "NaN or infinity")
