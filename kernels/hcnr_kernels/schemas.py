"""Every operator's schema, fake, check and backends: the only place that fills `torch.ops.hcnr`.

`ops.py` holds the public functions, which call the operators defined here.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hcnr_kernels import checks, cpu, inverse
from hcnr_kernels.compensation import compensation_ex as _torch_compensation


def _operator(
    schema: str,
    *,
    check: Callable[..., None],
    kernel: Callable[..., object],
    fake: Callable[..., object] = lambda *_: None,
) -> Callable[..., Any]:
    """Register one operator: the check runs in the fake and in front of every backend.

    `torch.library.custom_op` would do the same in one call, but its first call imports the compiler
    stack, two seconds, and each call costs several times as much.
    """
    name, arguments = schema.split("(", 1)

    def checked(function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def run(*args: object) -> object:
            check(*args)
            # A caller's autocast would round the fp32 products of the kernels to its dtype.
            with torch.autocast(_device_type(args), enabled=False):
                return function(*args)

        return run

    qualified = f"hcnr::{name}"
    torch.library.define(qualified, "(" + arguments, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(qualified, "cpu", checked(kernel))
    torch.library.impl(qualified, "cuda", checked(_announced(name, kernel)))
    torch.library.register_fake(qualified, checked(fake))
    return getattr(torch.ops.hcnr, name).default


def _device_type(args: tuple[object, ...]) -> str:
    return next(arg.device.type for arg in args if isinstance(arg, torch.Tensor))


def _announced(name: str, kernel: Callable[..., object]) -> Callable[..., object]:
    """The vectorised torch code on a CUDA tensor, saying once that it is not a fused kernel."""

    @functools.cache
    def announce() -> None:
        logging.getLogger(__name__).warning(
            "hcnr::%s has no fused CUDA kernel yet: running its vectorised torch code.", name
        )

    @functools.wraps(kernel)
    def run(*args: object) -> object:
        announce()
        return kernel(*args)

    return run


_FISHER = "(Tensor(a!) scores, Tensor x, Tensor g, Tensor cu_seqlens"
fisher_output_ = _operator(
    f"fisher_output_{_FISHER}, str form, Tensor? token_gram) -> ()",
    check=checks.fisher_output_,
    kernel=cpu.fisher_output_,
)
fisher_input_ = _operator(
    f"fisher_input_{_FISHER}, str form, Tensor? token_gram) -> ()",
    check=checks.fisher_input_,
    kernel=cpu.fisher_input_,
)
fisher_weight_ = _operator(
    f"fisher_weight_{_FISHER}) -> ()",
    check=checks.fisher_weight_,
    kernel=cpu.fisher_weight_,
)
token_gram = _operator(
    "token_gram(Tensor x, Tensor cu_seqlens, int max_seqlen) -> Tensor",
    check=checks.token_gram,
    kernel=cpu.token_gram,
    fake=lambda x, cu_seqlens, max_seqlen: x.new_empty(
        (cu_seqlens.shape[0] - 1, max_seqlen, max_seqlen), dtype=torch.float32
    ),
)
gram_ = _operator("gram_(Tensor(a!) gram, Tensor x) -> ()", check=checks.gram_, kernel=cpu.gram_)
symmetrize_ = _operator(
    "symmetrize_(Tensor(a!) gram) -> ()", check=checks.symmetrize_, kernel=cpu.symmetrize_
)
perturbation = _operator(
    "perturbation(Tensor base, Tensor tuned, Tensor mask, str axis) -> (Tensor, Tensor)",
    check=checks.perturbation,
    kernel=cpu.perturbation,
    fake=lambda base, *_: tuple(base.new_empty((), dtype=torch.float32) for _ in range(2)),
)
inverse_hessian = _operator(
    "inverse_hessian(Tensor hessian, float damping, int? block_size)"
    " -> (Tensor matrix, Tensor damping, Tensor status, Tensor condition)",
    check=checks.inverse_hessian,
    kernel=inverse.inverse_hessian,
    fake=lambda hessian, *_: (
        torch.empty_like(hessian, memory_format=torch.contiguous_format),
        hessian.new_empty(hessian.shape[0]),
        hessian.new_empty(hessian.shape[0], dtype=torch.int32),
        hessian.new_empty(hessian.shape[0]),
    ),
)


def _fake_compensation(delta: Tensor, *_: object) -> tuple[Tensor, ...]:
    dtype = torch.promote_types(torch.float32, delta.dtype)
    scalars = (delta.new_empty((), dtype=kind) for kind in (dtype, dtype, torch.int32))
    return torch.empty_like(delta, dtype=dtype), *scalars


compensation_ex = _operator(
    "compensation_ex(Tensor delta, Tensor mask, Tensor? hessian, str axis, str kind,"
    " Tensor? task_hessian, float task_weight, float damping, int? block_size)"
    " -> (Tensor deviation, Tensor damping, Tensor condition, Tensor status)",
    check=checks.compensation,
    kernel=_torch_compensation,
    fake=_fake_compensation,
)
objective = _operator(
    "objective(Tensor deviation, Tensor hessian, str axis) -> Tensor",
    check=checks.objective,
    kernel=cpu.objective,
    fake=lambda deviation, *_: deviation.new_empty((), dtype=torch.float64),
)
merge = _operator(
    "merge(Tensor base, Tensor tuned, Tensor mask, Tensor? deviation, str axis, ScalarType dtype)"
    " -> Tensor",
    check=checks.merge,
    kernel=cpu.merge,
    fake=lambda base, tuned, mask, deviation, axis, dtype: torch.empty_like(tuned, dtype=dtype),
)
