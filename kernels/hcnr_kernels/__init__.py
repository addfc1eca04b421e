"""Operators of hcnr: tensors in, tensors out; registered with torch as `torch.ops.hcnr`."""

from hcnr_kernels.compensation import Compensation
from hcnr_kernels.errors import FactorizationError, HcnrError, OperatorError
from hcnr_kernels.inverse import DAMPING_LADDER, InverseHessian
from hcnr_kernels.kept import Kept
from hcnr_kernels.ops import (
    compensation,
    compensation_ex,
    fisher_both_,
    fisher_input_,
    fisher_output_,
    fisher_weight_,
    gram_,
    inverse_hessian,
    merge,
    objective,
    perturbation,
    symmetrize_,
    token_gram,
)
from hcnr_kernels.schemas import operator_table
from hcnr_kernels.spectral import SpectralBasis, spectral_basis
from hcnr_kernels.tiles import gram_is_cheaper
from hcnr_kernels.token_space import RankedGram, Tokens

__all__ = [
    "DAMPING_LADDER",
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
