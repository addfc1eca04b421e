"""Operators of hcnr: tensors in, tensors out; registered with torch as `torch.ops.hcnr`."""

from hcnr_kernels.errors import FactorizationError, HcnrError, OperatorError
from hcnr_kernels.library import operator_table
from hcnr_kernels.ops.compensation import Compensation, compensation, compensation_ex, objective
from hcnr_kernels.ops.fisher import (
    fisher_both_,
    fisher_input_,
    fisher_output_,
    fisher_weight_,
    token_gram,
)
from hcnr_kernels.ops.fisher.forms import gram_is_cheaper
from hcnr_kernels.ops.gram import gram_, symmetrize_
from hcnr_kernels.ops.inverse import InverseHessian, inverse_hessian
from hcnr_kernels.ops.inverse.ladder import DAMPING_LADDER
from hcnr_kernels.ops.merge import merge
from hcnr_kernels.ops.perturbation import perturbation
from hcnr_kernels.ops.spectral import (
    BlockDiagonal,
    Kept,
    RankedGram,
    SpectralBasis,
    Tokens,
    spectral_basis,
)

CONTRACT_VERSION = "1.0"
"""Version of the public functions, schemas and `native`: semantic, apart from the package's own.

Minor: something new, or an argument with a default at the end. Major: a caller has to change.
`tests/kernels/contract.json` pins what it stands for.
"""

__all__ = [
    "CONTRACT_VERSION",
    "DAMPING_LADDER",
    "BlockDiagonal",
    "Compensation",
    "FactorizationError",
    "HcnrError",
    "InverseHessian",
    "Kept",
    "OperatorError",
    "RankedGram",
    "SpectralBasis",
    "Tokens",
    "compensation",
    "compensation_ex",
    "fisher_both_",
    "fisher_input_",
    "fisher_output_",
    "fisher_weight_",
    "gram_",
    "gram_is_cheaper",
    "inverse_hessian",
    "merge",
    "objective",
    "operator_table",
    "perturbation",
    "spectral_basis",
    "symmetrize_",
    "token_gram",
]
