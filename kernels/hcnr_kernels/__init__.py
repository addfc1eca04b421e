"""Operators of hcnr: tensors in, tensors out; registered with torch as `torch.ops.hcnr`.

Where torch is imported already, all operators are registered at once; otherwise it is imported, and
they are, when the first of the names below is used: the errors can be had without.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from hcnr_kernels.errors import FactorizationError, HcnrError, OperatorError

if TYPE_CHECKING:
    from hcnr_kernels.library import operator_table
    from hcnr_kernels.ops.compensation import (
        Compensation,
        Objectives,
        compensation,
        compensation_ex,
        objective,
        objectives,
    )
    from hcnr_kernels.ops.fisher import (
        fisher_both_,
        fisher_input_,
        fisher_output_,
        fisher_weight_,
        split_token_gram,
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

CONTRACT_VERSION = "1.2"
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
    "Objectives",
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
    "objectives",
    "operator_table",
    "perturbation",
    "spectral_basis",
    "split_token_gram",
    "symmetrize_",
    "token_gram",
]

_HOMES = {
    "library": ("operator_table",),
    "ops.compensation": (
        "Compensation", "Objectives", "compensation", "compensation_ex", "objective", "objectives",
    ),
    "ops.fisher": (
        "fisher_both_", "fisher_input_", "fisher_output_", "fisher_weight_", "split_token_gram",
        "token_gram",
    ),
    "ops.fisher.forms": ("gram_is_cheaper",),
    "ops.gram": ("gram_", "symmetrize_"),
    "ops.inverse": ("InverseHessian", "inverse_hessian"),
    "ops.inverse.ladder": ("DAMPING_LADDER",),
    "ops.merge": ("merge",),
    "ops.perturbation": ("perturbation",),
    "ops.spectral": (
        "BlockDiagonal", "Kept", "RankedGram", "SpectralBasis", "Tokens", "spectral_basis",
    ),
}  # fmt: skip
"""Modules and the public names that they define."""


def __getattr__(name: str) -> Any:
    """Import everything when the first public name is used."""
    if name not in __all__:
        raise AttributeError(f"module 'hcnr_kernels' has no attribute {name!r}")
    _load()
    return globals()[name]


def _load() -> None:
    for home, names in _HOMES.items():
        module = importlib.import_module(f"hcnr_kernels.{home}")
        globals().update({one: getattr(module, one) for one in names})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "torch" in sys.modules:
    _load()
