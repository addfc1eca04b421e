"""What every benchmark shares: the check before timing, the facts beside the time, rivals.

A rival is timed in the same process, its runs interleaved with ours; the ratio of the medians is
the result, printed at the end of the session and written beside our time with --benchmark-json.
"""

import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.cases import Case
from bench.goals import Record
from bench.journal import Journal
from bench.timing import cold_cache, peak_bytes, quantiles, synchronise
from hcnr_kernels.testing.accuracy import TENSOR_CORES, relative_error
from hcnr_kernels.testing.inputs import Sample
from hcnr_kernels.testing.registry import OPERATORS, Operator

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


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _facts(device: torch.device) -> dict[str, str]:
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = "not installed"
    return {
        "backend": device.type,
        "device": _device_name(device),
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
    }


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    """Quantiles for `extra_info`."""
    percentiles = zip(("p20_ms", "p50_ms", "p80_ms"), quantiles(seconds), strict=True)
    return {name: 1e3 * value for name, value in percentiles}


def _own(row: Operator, sample: Sample) -> tuple[Any, ...]:
    """The arguments, the mutated first ones copied."""
    count = len(row.mutates)
    return (*(value.clone() for value in sample.args[:count]), *sample.args[count:])


def check(row: Operator, sample: Sample, dtype: torch.dtype) -> None:
    """Nothing is timed before it agrees with the reference."""
    got = row.compared(row.public(*_own(row, sample), **sample.kwargs))
    args = [v.cpu() if isinstance(v, Tensor) else v for v in sample.args]
    for index in range(len(row.mutates)):
        # Also a copy: on a CPU it would be the sample's own.
        args[index] = args[index].to(torch.float64, copy=True)
    want = row.compared(row.twin(*args, **sample.kwargs))
    allowed = row.tolerances[dtype]
    if got[0].is_cuda and dtype.itemsize == 2:
        allowed = max(allowed, TENSOR_CORES)
    for left, right in zip(got, want, strict=True):
        assert relative_error(left, right) <= allowed, row.name


def operator_record(title: str, info: Mapping[str, Any]) -> Record:
    """An operator on its large input, as a row of `make gpu`, from what is beside its time."""
    rates = f"{info['gigabytes_per_second']:.0f} GB/s, {info['teraflops']:.2f} TFLOP/s"
    return {
        "title": title,
        "shape": f"{info['shapes']}: {rates}",
        "dtype": info["dtype"].removeprefix("torch."),
        "ms": {name: info[f"{name}_ms"] for name in ("p20", "p50", "p80")},
        "peak_mib": info["peak_mib"],
        "note": "from the call until all is done, launching included",
    }


@pytest.fixture
def run_operator(benchmark: Any, device: torch.device) -> Callable[[str, torch.dtype], None]:
    """Check one row of the registry on its large input, then time it."""

    def run(name: str, dtype: torch.dtype) -> None:
        row = OPERATORS[name]
        title = f"registry: {name}-{str(dtype).removeprefix('torch.')}"
        if title in json.loads(os.environ.get("HCNR_SKIP", "[]")):
            pytest.skip("an earlier command of make gpu has measured it")
        sample = row.large(str(device), dtype)
        check(row, sample, dtype)
        args = _own(row, sample)

        def call() -> None:
            row.public(*args, **sample.kwargs)
            synchronise(device)

        peak = peak_bytes(call, device)
        cool = cold_cache(device)

        def before() -> None:
            cool()
            synchronise(device)

        benchmark.pedantic(call, setup=before, rounds=7, warmup_rounds=1)
        if benchmark.disabled:
            return
        cost, seconds = row.cost(sample), benchmark.stats.stats.median
        benchmark.extra_info.update(
            shapes=sample.label,
            dtype=str(dtype),
            bytes=cost.nbytes,
            flops=cost.flops,
            gigabytes_per_second=cost.nbytes / seconds / 1e9,
            teraflops=cost.flops / seconds / 1e12,
            peak_mib=None if peak is None else peak / 2**20,
            **_milliseconds(benchmark.stats.stats.data),
            **_facts(device),
        )
        if files := os.environ.get("HCNR_JOURNAL"):
            journal = Journal([Path(file) for file in files.split(os.pathsep)])
            record = operator_record(title, benchmark.extra_info)
            journal.add("record", section="operators", case=title, **record)

    return run


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: Any, device: torch.device) -> Race:
    """Time contenders in turns, ours first; returns each rival's median over ours.

    With `busy` on one thread of a CPU, seconds are those of the processor: what else the machine
    does, and waiting for a disk, is not among them. With `processor` such ratios are printed too,
    of all threads and of processes that a contender starts. With --benchmark-disable every
    contender runs once and the ratios are NaN.
    """

    def run(
        title: str,
        contenders: Mapping[str, Callable[[], Any]],
        rounds: int = 9,
        *,
        busy: bool = False,
        processor: bool = False,
        **facts: Any,
    ) -> dict[str, float]:
        alone = busy and device.type == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        (ours, call), *rivals = contenders.items()
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        worked: dict[str, list[float]] = {name: [] for name in contenders}
        cool = cold_cache(device)

        def timed(name: str, contender: Callable[[], Any]) -> None:
            start, before = clock(), sum(os.times()[:4])
            contender()
            synchronise(device)
            seconds[name].append(clock() - start)
            worked[name].append(sum(os.times()[:4]) - before)

        def before() -> None:
            for name, rival in rivals:
                cool()
                synchronise(device)
                timed(name, rival)
            cool()
            synchronise(device)

        benchmark.pedantic(timed, args=(ours, call), setup=before, rounds=rounds, warmup_rounds=1)
        if benchmark.disabled:
            return dict.fromkeys([name for name, _ in rivals], float("nan"))
        medians = {name: quantiles(runs[1:])[1] for name, runs in seconds.items()}
        ratios = {name: medians[name] / medians[ours] for name, _ in rivals}
        peak = peak_bytes(call, device)
        benchmark.extra_info.update(
            title=title,
            ratios=ratios,
            peak_mib=None if peak is None else peak / 2**20,
            **_milliseconds(seconds[ours][1:]),
            **_facts(device),
            **facts,
        )
        request.config.stash[RATIOS].append(
            f"{title}: {ours} {medians[ours] * 1e3:.2f} ms; "
            + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in ratios.items())
        )
        if processor:
            of = {name: quantiles(runs[1:])[1] for name, runs in worked.items()}
            of = {name: of[name] / of[ours] for name, _ in rivals}
            benchmark.extra_info["processor_ratios"] = of
            request.config.stash[RATIOS].append(
                f"{title}, processor time: "
                + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in of.items())
            )
        return ratios

    return run


@pytest.fixture
def run_case(race: Race, device: torch.device) -> Callable[..., None]:
    """Verify a case of `make gpu`, then race it; tiny shapes without a GPU."""

    def run(build: Callable[[torch.device, bool], Case]) -> None:
        case = build(device, device.type == "cpu")
        case.verify()
        race(
            f"{case.title}, {case.shape}",
            case.contenders(),
            shapes=case.shape,
            dtype=str(case.dtype),
            bytes=case.nbytes,
            flops=case.flops,
        )

    return run
