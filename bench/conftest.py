"""What every operator benchmark shares: the check before timing, the facts beside the time, rivals.

A rival is timed in the same process, its runs interleaved with ours; the ratio of the medians is
the result, printed at the end of the session.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from hcnr_kernels.registry import OPERATORS, Operator, relative_error
from hcnr_kernels.samples import Sample

RATIOS = pytest.StashKey[list[str]]()
Race = Callable[..., dict[str, float]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RATIOS] = []


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[RATIOS]:
        terminalreporter.section("ratios of medians, interleaved runs")
        for line in config.stash[RATIOS]:
            terminalreporter.write_line(line)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def check(row: Operator, sample: Sample, dtype: torch.dtype) -> None:
    """Nothing is timed before it agrees with the reference."""
    got = row.compared(row.public(*_own(row, sample), **sample.kwargs))
    first, *others = (v.cpu() if isinstance(v, Tensor) else v for v in sample.args)
    twin = first.double() if row.mutates else first
    want = row.compared(row.twin(twin, *others, **sample.kwargs))
    for left, right in zip(got, want, strict=True):
        assert relative_error(left, right) <= row.tolerances[dtype], row.name


def _own(row: Operator, sample: Sample) -> tuple[Any, ...]:
    return (sample.args[0].clone(), *sample.args[1:]) if row.mutates else sample.args


@pytest.fixture
def run_operator(benchmark: Any) -> Callable[[str, torch.dtype], None]:
    """Check one row of the registry on its large input, then time it."""

    def run(name: str, dtype: torch.dtype) -> None:
        row = OPERATORS[name]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sample = row.large(str(device), dtype)
        check(row, sample, dtype)
        args = _own(row, sample)

        def call() -> None:
            row.public(*args, **sample.kwargs)
            _synchronise(device)

        benchmark.pedantic(call, rounds=7, warmup_rounds=1)
        cost, seconds = row.cost(sample), benchmark.stats.stats.median
        benchmark.extra_info.update(
            shapes=sample.label,
            dtype=str(dtype),
            backend=device.type,
            bytes=cost.nbytes,
            flops=cost.flops,
            gigabytes_per_second=cost.nbytes / seconds / 1e9,
            teraflops=cost.flops / seconds / 1e12,
            device=_device_name(device),
            torch=torch.__version__,
            python=platform.python_version(),
        )

    return run


@pytest.fixture
def race(request: pytest.FixtureRequest) -> Race:
    """Time contenders in turns, ours first; returns each rival's median over ours."""

    def run(
        title: str, contenders: Mapping[str, Callable[[], Any]], rounds: int = 9
    ) -> dict[str, float]:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(rounds + 1):
            for name, call in contenders.items():
                _synchronise(device)
                start = time.perf_counter()
                call()
                _synchronise(device)
                if turn:
                    seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        ours = next(iter(contenders))
        ratios = {name: medians[name] / medians[ours] for name in contenders if name != ours}
        request.config.stash[RATIOS].append(
            f"{title}: {ours} {medians[ours] * 1e3:.2f} ms; "
            + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
        )
        return ratios

    return run
