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
lines."""

CYCLES_PER_MS = 2_000_000
"""Of a GPU at its highest clock; at a lower one it sleeps longer, which does no harm."""

HEAD_START = 1.5
"""The device sleeps this many times as long as the host took to enqueue the call."""

LEAST_SLEEP_MS, MOST_SLEEP_MS = 1.0, 60.0

SLOW, SLOW_RUNS = 5.0, 3
"""A rival that takes so many times our time is run this often: its quantiles decide nothing."""


class Times(NamedTuple):
    """Milliseconds: quantiles over the runs, and the median until the call came back.

    `ahead` is the share of runs whose whole work was enqueued before the device began with it.
    Where it is small, either the call waits for the device, or launching takes longer than the
    work: the device idled inside the time, and the time is the host's.
    """

    p20: float
    p50: float
    p80: float
    host: float
    ahead: float


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
    sleeps, first = {}, {}
    for name, call in contenders.items():
        # Without a head start: a call that waits for the device would wait for that, too.
        first[name] = _timed(call, cool, device, 0)
        sleeps[name] = sleep_cycles(first[name].host)
    rounds = min(most, max(least, int(seconds / (time.perf_counter() - start))))
    ours = next(iter(first.values())).ms
    turns = {
        name: min(rounds, SLOW_RUNS) if run.ms > SLOW * ours else rounds
        for name, run in first.items()
    }
    runs: dict[str, list[_Run]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, call in contenders.items():
            if turn < turns[name]:
                runs[name].append(_timed(call, cool, device, sleeps[name]))
    return {name: _summary(found) for name, found in runs.items()}


class _Run(NamedTuple):
    """Milliseconds on the device, until the call came back on the host, and who was first."""

    ms: float
    host: float
    ahead: bool


def _summary(runs: list[_Run]) -> Times:
    host = quantiles([run.host for run in runs])[1]
    ahead = sum(run.ahead for run in runs) / len(runs)
    return Times(*quantiles([run.ms for run in runs]), host, ahead)


def sleep_cycles(host_ms: float) -> int:
    """For how long the device must sleep for the host to get ahead of it."""
    return int(CYCLES_PER_MS * min(MOST_SLEEP_MS, max(LEAST_SLEEP_MS, HEAD_START * host_ms)))


def _timed(
    call: Callable[[], Any], cool: Callable[[], None], device: torch.device, cycles: int
) -> _Run:
    """Run a call once; on a GPU behind `cycles` of sleep, so that its work is enqueued by then."""
    cool()
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        elapsed = 1e3 * (time.perf_counter() - start)
        return _Run(elapsed, elapsed, True)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if cycles:
        # The host gets ahead: what is timed is the device, not the launching of short kernels.
        torch.cuda._sleep(cycles)
    else:
        synchronise(device)
    begin.record()
    start = time.perf_counter()
    call()
    host = 1e3 * (time.perf_counter() - start)
    ahead = not begin.query()
    end.record()
    end.synchronize()
    return _Run(begin.elapsed_time(end), host, ahead)


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
    timings = interleaved(contenders, device)
    return Ceilings(
        copy_bytes_per_second=2e3 * source.nbytes / timings["copy"].p50,
        bf16_flops_per_second=2e3 * side**3 / timings["product"].p50,
        fp32_flops_per_second=2e3 * (side // 2) ** 3 / timings["wide product"].p50,
    )
