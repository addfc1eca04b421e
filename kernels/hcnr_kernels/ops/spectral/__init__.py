"""Two-sided repair in the basis in which both curvatures are diagonal: method.md (10).

A plain function and not an operator: its result is an object, whose widths depend on the data. So
it has no row in `testing/registry.py`, no twin in `testing/reference.py` and no Triton kernel: on a
GPU it is products and eigendecompositions of torch, and the factors of `ops/inverse`. What it must
equal is a dense Kronecker system in float64 (`kronecker` in `tests/support/spectra.py`).
"""

from hcnr_kernels.ops.spectral.basis import SpectralBasis, spectral_basis
from hcnr_kernels.ops.spectral.block_diagonal import BlockDiagonal
from hcnr_kernels.ops.spectral.forecast import TaskEnergy
from hcnr_kernels.ops.spectral.kept import Kept
from hcnr_kernels.ops.spectral.modes import Modes
from hcnr_kernels.ops.spectral.token_space import RankedGram, SecondMoment, Tokens

__all__ = [
    "BlockDiagonal",
    "Kept",
    "Modes",
    "RankedGram",
    "SecondMoment",
    "SpectralBasis",
    "TaskEnergy",
    "Tokens",
    "spectral_basis",
]
