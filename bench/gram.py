"""Cases of `gram_`: a lower triangle against the full product of cuBLAS."""

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

import hcnr_kernels as hk
from bench.cases import Case, Goal, against, rms_ratio
from bench.timing import normal

RIVAL = "mm(out_dtype=float32) + add"
PREDICTIONS = {1024: 1.0, 2048: 1.2, 4096: 1.45, 14336: 1.6}
"""Of the speed-up by width: from the half of the tiles at what Triton usually reaches of cuBLAS,
80 %; narrow ones go to cuBLAS."""


def gram(width: int, device: torch.device, small: bool) -> Case:
    tokens, columns = (256, width // 32) if small else (32768, width)
    x = normal(tokens, columns, device=device, dtype=torch.bfloat16, seed=30)
    chosen = torch.randperm(columns, generator=torch.Generator().manual_seed(31))[:64].to(device)
    reference = cache(lambda: x[:, chosen].double().T @ x.double())
    below = torch.arange(columns, device=device) <= chosen[:, None]

    def error(found: tuple[Tensor, ...]) -> float:
        """On some rows; in float64 the whole would take longer than all that is timed."""
        return rms_ratio(found[0][chosen] * below, reference() * below)

    def rival(total: Tensor) -> Tensor:
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
        width=width,
    )


CASES: Mapping[str, Callable[[torch.device, bool], Case]] = {
    str(width): partial(gram, width) for width in PREDICTIONS
}
