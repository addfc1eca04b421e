"""How this suite times: medians of interleaved runs on a cold cache, against measured ceilings."""

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

FLUSH_BYTES = 2**30
"""Read before every timed call on a GPU: many times its L2 cache, which is left without dirty
lines, and long enough for the host to enqueue what is timed meanwhile."""


class Times(NamedTuple):
    """Milliseconds: quantiles over the runs, and the median until the call came back."""

    p20: float
    p50: float
    p80: float
    host: float


class Ceilings(NamedTuple):
    """What the machine reached in this process: a large copy (read + write), large products."""

    copy_bytes_per_second: float
    bf16_flops_per_second: float
    fp32_flops_per_second: float

    def flops_per_second(self, dtype: torch.dtype) -> float:
        """Of a product of operands of a dtype, fp32 without TF32."""
        wide = dtype == torch.float32
        return self.fp32_flops_per_second if wide else self.bf16_flops_per_second


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def normal(*shape: int, device: torch.device, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers drawn on the device: the large inputs of this suite would take long else."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


def cold_cache(device: torch.device) -> Callable[[], None]:
    """A function that throws the inputs out of the GPU's cache; nothing on a CPU."""
    if device.type != "cuda":
        return lambda: None
    buffer = torch.ones(FLUSH_BYTES // 4, device=device)

    def read() -> None:
        buffer.sum()

    return read


def quantiles(values: list[float]) -> tuple[float, float, float]:
    p20, p50, p80 = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    )
    return float(p20), float(p50), float(p80)


def interleaved(
    contenders: Mapping[str, Callable[[], Any]],
    device: torch.device,
    *,
    seconds: float = 1.5,
    least: int = 7,
    most: int = 50,
) -> dict[str, Times]:
    """Time the contenders in turns for about `seconds` in all, `least` to `most` runs of each."""
    cool = cold_cache(device)
    for call in contenders.values():
        call()  # compiles, chooses algorithms, fills the allocator
    synchronise(device)
    start = time.perf_counter()
    for call in contenders.values():
        _timed(call, cool, device)
    rounds = min(most, max(least, int(seconds / (time.perf_counter() - start))))
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            runs[name].append(_timed(call, cool, device))
    return {
        name: Times(*quantiles([ms for ms, _ in pairs]), quantiles([host for _, host in pairs])[1])
        for name, pairs in runs.items()
    }


def _timed(
    call: Callable[[], Any], cool: Callable[[], None], device: torch.device
) -> tuple[float, float]:
    """Milliseconds on the device, and until the call came back on the host."""
    cool()
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        elapsed = 1e3 * (time.perf_counter() - start)
        return elapsed, elapsed
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # The host gets ahead: what is timed is the device, not the launching of short kernels.
    torch.cuda._sleep(2_000_000)
    begin.record()
    start = time.perf_counter()
    call()
    host = 1e3 * (time.perf_counter() - start)
    end.record()
    end.synchronize()
    return begin.elapsed_time(end), host


def peak_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """The most device memory held during a call, what was there before included."""
    if device.type != "cuda":
        return None
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside, fresh memory (`torch.empty`) is NaN: an element that is not written shows."""
    before = torch.are_deterministic_algorithms_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)


def measure_ceilings(device: torch.device, *, small: bool = False) -> Ceilings:
    """Copy bandwidth and dense bf16 rate on random data: what floors are computed from."""
    count, side = (2**22, 256) if small else (2**29, 8192)
    source = normal(count, device=device, dtype=torch.bfloat16, seed=0)
    target = torch.empty_like(source)
    left = normal(side, side, device=device, dtype=torch.bfloat16, seed=1)
    right = normal(side, side, device=device, dtype=torch.bfloat16, seed=2)
    wide = normal(side // 2, side // 2, device=device, dtype=torch.float32, seed=3)
    contenders = {
        "copy": lambda: target.copy_(source),
        "product": lambda: left @ right,
        "wide product": lambda: wide @ wide,
    }
    found = interleaved(contenders, device)
    return Ceilings(
        copy_bytes_per_second=2e3 * source.nbytes / found["copy"].p50,
        bf16_flops_per_second=2e3 * side**3 / found["product"].p50,
        fp32_flops_per_second=2e3 * (side // 2) ** 3 / found["wide product"].p50,
    )
