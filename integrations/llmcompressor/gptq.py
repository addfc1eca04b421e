"""GPTQ in llm-compressor with damped inverses that say what they did, and no silent fallback."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from llmcompressor.modifiers.gptq import GPTQModifier, gptq_quantize
from llmcompressor.modifiers.gptq.helpers import assign_batches, make_empty_hessian
from pydantic import PrivateAttr
from torch import Tensor, nn

from hcnr_kernels import (
    DAMPING_LADDER,
    FactorizationError,
    InverseHessian,
    gram_,
    inverse_hessian,
    symmetrize_,
)

LOGGER = logging.getLogger(__name__)


class Record(NamedTuple):
    """How the Hessian of a module was inverted: damping as a share of its mean diagonal."""

    name: str
    damping: float
    raised: bool
    condition: float


class DampedGPTQModifier(GPTQModifier):
    """`GPTQModifier` whose Hessians are accumulated and inverted by hcnr_kernels.

    Where llm-compressor's factorisation succeeds, the weights are the same up to rounding. Where
    it would quantise a module by rounding to nearest, or raise, the damping is raised along
    `DAMPING_LADDER` and recorded; NaN in the activations is an error that names the module.

    Attributes:
        records: one for each module that was quantised, in that order.
    """

    _records: list[Record] = PrivateAttr(default_factory=list)
    _halves: set[nn.Module] = PrivateAttr(default_factory=set)

    @property
    def records(self) -> list[Record]:
        """How the Hessian of each module was inverted."""
        return self._records

    def calibrate_module(
        self, module: nn.Module, args: tuple[Tensor, ...], _output: Tensor
    ) -> None:
        """Add the inputs of a batch; layers that are not `nn.Linear` go llm-compressor's way."""
        if not isinstance(module, nn.Linear):
            super().calibrate_module(module, args, _output)
            return
        x = args[0]
        if module not in self._num_samples:
            self._hessians[module] = make_empty_hessian(module, device=x.device)
            self._num_samples[module] = torch.zeros((), device=x.device)
            self._halves.add(module)
        hessian = self._hessians[module]
        gram_(hessian, x.reshape(-1, x.shape[-1]).to(hessian.device))
        # Two dimensions are one sample there.
        self._num_samples[module] += x.shape[0] if x.dim() > 2 else 1

    def compress_module_list(self, module_list: list[nn.Module]) -> None:
        """Quantise modules, with our factorisation in the place of llm-compressor's.

        Raises:
            FactorizationError: a Hessian holds NaN or stays indefinite; it names the module.
        """
        for module in module_list:
            if module in self._halves and module in self._hessians:
                symmetrize_(self._hessians[module]).mul_(2)  # its Hessian is 2 x x^T
                self._halves.discard(module)
        batches = assign_batches(module_list, self.batched_quantization, self.block_size)
        names = [self._module_names[module] for batch in batches for module in batch]
        before = len(self._records)
        with factorised(names, self._records.append):
            super().compress_module_list(module_list)
        raised = [record for record in self._records[before:] if record.raised]
        if raised:
            LOGGER.warning(
                "%d of %d Hessians needed more damping than %g: %s.", len(raised), len(names),
                self.dampening_frac, ", ".join(f"{one.name} {one.damping:g}" for one in raised),
            )  # fmt: skip


@contextlib.contextmanager
def factorised(names: Sequence[str], receive: Callable[[Record], None]) -> Iterator[None]:
    """Inside, llm-compressor's `factorize_hessian` is ours; `names` are its matrices in order."""
    theirs, pending = gptq_quantize.factorize_hessian, iter(names)

    def factorize(weights: Tensor, hessians: Tensor, percdamp: float, fallback: Tensor) -> Tensor:
        diagonal = hessians.diagonal(dim1=-2, dim2=-1)
        dead = diagonal == 0
        diagonal.masked_fill_(dead, 1)
        weights.masked_fill_(dead[:, None], 0)
        for hessian in hessians:
            name = next(pending)
            factor, inverse = inverse_factor(hessian, damping=percdamp, name=name)
            hessian.copy_(factor)
            damping = float(f"{float(inverse.damping):.6g}")  # 0.01, not its nearest float32
            raised = damping > percdamp * (1 + 1e-5)
            receive(Record(name, damping, raised, float(inverse.condition)))
        return hessians

    gptq_quantize.factorize_hessian = factorize
    try:
        yield
    finally:
        gptq_quantize.factorize_hessian = theirs


def inverse_factor(
    hessian: Tensor, *, damping: float, name: str = "the matrix"
) -> tuple[Tensor, InverseHessian]:
    """Upper `U` with `U^T U = (H + damping mean(diag H) I)^-1`, what GPTQ and SparseGPT walk along.

    Args:
        hessian: `[d, d]` fp32 or float64, symmetric.
        damping: share of the mean diagonal; raised along `DAMPING_LADDER` while either the matrix
            or its inverse has no Cholesky factor.
        name: of the matrix, for errors.

    Returns:
        `U [d, d]`, and the inverse with the damping used.

    Raises:
        FactorizationError: NaN, or still indefinite at the top.
    """
    level = damping
    for level in (damping, *(value for value in DAMPING_LADDER if value > damping)):
        inverse = inverse_hessian(hessian, damping=level, names=[name])
        assert isinstance(inverse.matrix, Tensor)
        factor, order = torch.linalg.cholesky_ex(inverse.matrix, upper=True)
        if int(order) == 0:
            return factor, inverse
    raise FactorizationError(
        f"The inverse of the curvature of {name} has no Cholesky factor even with damping "
        f"{level:g}; calibrate with more samples."
    )
