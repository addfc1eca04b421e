"""How fast this machine multiplies, factorises and reads: what a plan's times are told from."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from hcnr_kernels.ops.spectral import spectral_basis
from hcnr_kernels.ops.spectral.token_space import dense_flops

__all__ = ["Rates", "measure_rates"]

_SECONDS, _MOST_TOKENS = 0.05, 8192
_WIDTH = 256
_READ = 64 << 20


class Rates(NamedTuple):
    """Rates of one machine.

    Attributes:
        products: operations a second in products of activations and weights.
        pencils: operations a second in eigenproblems of two second moments.
        reading: bytes a second out of a checkpoint's file, which may be cached.
    """

    products: float
    pencils: float
    reading: float

    def seconds(self, flops: int, pencils: int, moved: int) -> float:
        """Of so many operations, how many of them in eigenproblems, and so many bytes."""
        products = max(flops - pencils, 0)
        return products / self.products + pencils / self.pencils + moved / self.reading


def measure_rates(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int], block: int | None, file: Path
) -> Rates:
    """Measure for a fraction of a second.

    Args:
        device: where models will run.
        dtype: of their weights.
        shape: `(out, in)` of the commonest matrix.
        block: neurons of a diagonal block of the curvature; None for whole matrices.
        file: of a checkpoint, read in part.
    """
    out, into = shape
    with torch.inference_mode():
        weight = torch.zeros(out, into, dtype=dtype, device=device)
        tokens, took = 64, 0.0
        while took < _SECONDS and tokens < _MOST_TOKENS:
            tokens *= 2
            x = torch.zeros(tokens, into, dtype=dtype, device=device)
            took = _timed(lambda x=x: x @ weight.T, device)
        width = min(_WIDTH, block or _WIDTH)
        # Random ones: eigenproblems of a multiple of the identity end early.
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(5, 2 * width, width, generator=generator).to(device)
        inputs, outputs, task_inputs, task_outputs = (one.T @ one / len(one) for one in rows[:4])
        pencils = _timed(
            lambda: spectral_basis(rows[4, :width], (inputs, outputs), (task_inputs, task_outputs)),
            device,
        )
    start = time.perf_counter()
    with file.open("rb") as content:
        read = len(content.read(_READ))
    reading = read / max(time.perf_counter() - start, 1e-6)
    return Rates(2 * tokens * out * into / took, 2 * dense_flops(width) / pencils, reading)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of four calls: others may want the machine meanwhile."""
    took = math.inf
    for _ in range(4):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = min(took, time.perf_counter() - start)
    return max(took, 1e-6)
