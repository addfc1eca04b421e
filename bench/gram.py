"""Cases of `gram_`: a lower triangle against the full product of cuBLAS."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, against, rms_ratio
from bench.timing import normal

RIVAL = "cuBLAS product in fp32, added"
PREDICTIONS = {1024: 1.0, 2048: 1.2, 4096: 1.45, 14336: 1.6}
"""Of the speed-up by width: from the half of the tiles at what Triton usually reaches of cuBLAS,
80 %; narrow ones go to cuBLAS."""


def fused_add(device: torch.device) -> bool:
    """Whether torch adds a product of bfloat16 into fp32 in one call: the fairer rival, if so."""
    if device.type != "cuda":
        return False
    total, x = torch.zeros(64, 64, device=device), torch.ones(64, 64, device=device).bfloat16()
    try:
        torch.addmm(total, x.T, x, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return bool((total == 64).all())


def gram(width: int, device: torch.device, small: bool) -> Case:
    tokens, columns = (256, width // 32) if small else (32768, width)
    x = normal(tokens, columns, device=device, dtype=torch.bfloat16, seed=30)
    chosen = torch.randperm(columns, generator=torch.Generator().manual_seed(31))[:64].to(device)
    reference = cache(lambda: x[:, chosen].double().T @ x.double())
    below = torch.arange(columns, device=device) <= chosen[:, None]

    def error(results: tuple[Tensor, ...]) -> float:
        """On some rows; in float64 the whole would take longer than all that is timed."""
        return rms_ratio(results[0][chosen] * below, reference() * below)

    fused = fused_add(device)

    def rival(total: Tensor) -> Tensor:
        if fused:
            return torch.addmm(total, x.T, x, out_dtype=torch.float32, out=total)
        if device.type == "cuda":
            return total.add_(torch.mm(x.T, x, out_dtype=torch.float32))
        return total.addmm_(x.T.float(), x.float())

    wide = width >= 4096
    return Case(
        title=f"gram_ {width}",
        shape=f"{tokens} tokens, {columns}",
        dtype=torch.bfloat16,
        run=lambda total: hk.gram_(total, x),
        accumulators=lambda: (torch.zeros(columns, columns, device=device),),
        error=error,
        kept=lambda found: (found[0].tril(),),
        flops=tokens * columns * (columns + 1),
        nbytes=x.nbytes + 4 * columns * (columns + 1),
        rivals={RIVAL: rival},
        goal=Goal(
            f"speed-up over {RIVAL}",
            against(RIVAL),
            1.5 if wide else None,
            prediction=PREDICTIONS[width],
        ),
        note=f"the rival: {'addmm(out=)' if fused else 'mm, then add'}",
        width=width,
    )


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    str(width): partial(gram, width) for width in PREDICTIONS
}
