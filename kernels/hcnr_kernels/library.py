"""Registration with torch, dispatch to backends, exact products.

The one place that fills `torch.ops.hcnr`; the families call `operator`.
"""

import contextlib
import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from hcnr_kernels import native
from hcnr_kernels.triton.launch import FLOATS, interpreting, missing


class Registered(NamedTuple):
    """What serves an operator.

    Attributes:
        triton: The module that holds its fused backend, None without one.
        native: Whether the compiled extension serves it where it can.
        partly: What of it goes to Triton kernels that its torch code starts, in words; None where
            that starts none.
    """

    triton: str | None
    native: bool
    partly: str | None


REGISTERED: dict[str, Registered] = {}
"""Every operator of `torch.ops.hcnr`."""


def operator(
    schema: str,
    *,
    check: Callable[..., None],
    kernel: Callable[..., object],
    fake: Callable[..., object] = lambda *_: None,
    triton: str | None = None,
    native: bool = False,
    partly: str | None = None,
) -> Callable[..., Any]:
    """Register one operator: the check runs in the fake and in front of every backend.

    `kernel` is torch code for any device. `triton` names the module whose function of the
    operator's name runs in its place on CUDA tensors, and with `TRITON_INTERPRET=1` on CPU tensors.
    Without one `kernel` runs there too: it is products and factorisations of the vendor's
    libraries, or starts Triton kernels in between, as `ops/inverse/factor` does; `partly` says for
    what. `native` tells that `kernel` asks the compiled extension first.

    `torch.library.custom_op` would do the same in one call, but its first call imports the compiler
    stack, two seconds, and each call costs several times as much.
    """
    name, arguments = schema.split("(", 1)
    REGISTERED[name] = Registered(triton, native, partly)
    fused = kernel if triton is None else _fused(name, triton, kernel)

    def checked(function: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(function)
        def run(*args: object) -> object:
            check(*args)
            device = _device(args)
            if device.type not in ("cpu", "cuda"):
                return function(*args)
            with exact_products(device):
                return function(*args)

        return run

    def on_cpu(*args: object) -> object:
        return (fused if interpreting() else kernel)(*args)

    qualified = f"hcnr::{name}"
    torch.library.define(qualified, "(" + arguments, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(qualified, "cpu", checked(on_cpu))
    torch.library.impl(qualified, "cuda", checked(fused))
    torch.library.register_fake(qualified, checked(fake))
    return getattr(torch.ops.hcnr, name).default


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Inside, products of fp32 operands are fp32, on the device that is the current one.

    A caller's autocast would round them to its dtype, and what training scripts ask for, TF32 or
    bf16 inside of products, to three digits. The latter are settings of the process.
    """
    rounded = [(owner, name, getattr(owner, name)) for owner, name in _precisions()]
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with torch.autocast(device.type, enabled=False), current:
        try:
            for owner, name, setting in rounded:
                if setting not in EXACT:
                    setattr(owner, name, "ieee" if isinstance(setting, str) else False)
            yield
        finally:
            for owner, name, setting in rounded:
                if setting not in EXACT:
                    setattr(owner, name, setting)


EXACT = ("ieee", "none", False)
"""Settings of `_precisions` that leave fp32 products alone."""


def _precisions() -> list[tuple[Any, str]]:
    """Where torch keeps how fp32 products may be rounded: (object, attribute)."""
    matmul, mkldnn = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):  # before torch 2.9
        return [(matmul, "allow_tf32")]
    return [(matmul, "fp32_precision"), (mkldnn, "fp32_precision")]


def _device(args: tuple[object, ...]) -> torch.device:
    return next(arg.device for arg in args if isinstance(arg, torch.Tensor))


def _fused(name: str, module: str, kernel: Callable[..., object]) -> Callable[..., object]:
    """The Triton backend; what it cannot do runs on `kernel`, and says so once per reason."""

    @functools.cache
    def announce(reason: str) -> None:
        logging.getLogger(__name__).warning(
            "hcnr::%s runs its vectorised torch code, not its fused kernel: %s.", name, reason
        )

    def run(*args: object) -> object:
        reason = missing() or _unsupported(args)
        if reason is not None:
            announce(reason)
            return kernel(*args)
        return getattr(importlib.import_module(module), name)(*args)

    return run


def _unsupported(args: tuple[object, ...]) -> str | None:
    """Which dtype among the arguments the Triton kernels do not know; None when they know all."""
    for arg in args:
        dtype = arg.dtype if isinstance(arg, torch.Tensor) else arg
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point and dtype not in FLOATS:
            return f"it does not take {dtype}"
    return None


def operator_table() -> list[tuple[str, str, str]]:
    """Rows (operator, backend, `available` or the reason why not) for `hcnr info`."""
    cuda = "available" if torch.cuda.is_available() else "no CUDA device"
    rows: list[tuple[str, str, str]] = []
    for name, registered in sorted(REGISTERED.items()):
        rows.append((name, "cpu", "available"))
        if registered.triton is not None:
            status = missing() or ("interpreted on the CPU" if interpreting() else cuda)
            rows.append((name, "triton", status))
        else:
            rows.append((name, "cuda", cuda))
        if registered.partly is not None:
            # On CPU tensors none of it is interpreted: their tiling is another one.
            status = missing() or cuda
            part = f" for {registered.partly}" if status == "available" else ""
            rows.append((name, "triton", status + part))
        if registered.native:
            rows.append((name, "native", native.native().reason or "available"))
    return rows
