"""What is measured of an operator: a case with its floor, its rivals and its goal, and its record.

A case is defined once per family (`fisher.py`, `gram.py`, `perturbation.py`, `merge.py`,
`inverse.py`, `compensation.py`) and used by `make gpu` and by the pytest-benchmark suite alike.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.goals import Goal, Record
from bench.timing import Ceilings, interleaved, peak_bytes, poisoned, synchronise
from hcnr_kernels.testing.accuracy import TENSOR_CORES

RIVAL_TOLERANCE = 2e-2
"""RMS ratio to float64 that a rival must keep, so that it computes the same thing; bf16 results
are rivals too."""


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        title: The operator and what is special about the call.
        shape: In words.
        dtype: Of the inputs.
        run: The call, given the accumulators; returns what it computed.
        error: RMS ratio of a result to float64.
        flops: Operations that cannot be avoided, at the rate of `arithmetic`.
        nbytes: Bytes that must be moved.
        goal: What the row is about.
        accumulators: Fresh ones; none where outputs are new tensors.
        rivals: Other ways to the same result; a yardstick that computes something else returns
            None.
        kept: The part of a result that is specified.
        tolerance: For `error`.
        arithmetic: Dtype of the products that set the floor.
        note: Shown beside the row.
        width: Where rows of different widths make a crossover, that of this one.
    """

    title: str
    shape: str
    dtype: torch.dtype
    run: Callable[..., Any]
    error: Callable[[tuple[Tensor, ...]], float]
    flops: float
    nbytes: float
    goal: Goal
    accumulators: Callable[[], tuple[Tensor, ...]] = tuple
    rivals: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    kept: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] = lambda found: found
    tolerance: float = TENSOR_CORES
    arithmetic: torch.dtype = torch.bfloat16
    note: str = ""
    width: int | None = None

    def result(self, run: Callable[..., Any], *, poison: bool = False) -> tuple[Tensor, ...] | None:
        """What a contender computes from nothing."""
        with poisoned() if poison else contextlib.nullcontext():
            results = run(*self.accumulators())
        if results is None:
            return None
        return self.kept((results,) if isinstance(results, Tensor) else tuple(results))

    def verify(self) -> tuple[float, bool, dict[str, float]]:
        """Our error, whether two runs gave the same bits, and the errors of the rivals.

        Raises:
            AssertionError: A contender is wrong.
        """
        first, second = self.result(self.run, poison=True), self.result(self.run)
        assert first is not None and second is not None, f"{self.title} returned nothing"
        same = all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
        error = self.error(first)
        del first, second
        assert error <= self.tolerance, f"{self.title}: error {error:.1e} > {self.tolerance:.1e}"
        errors = {}
        for name, run in self.rivals.items():
            results = self.result(run)
            if results is not None:
                errors[name] = self.error(results)
                assert errors[name] <= RIVAL_TOLERANCE, f"{name}: error {errors[name]:.1e}"
        return error, same, errors

    def contenders(self) -> dict[str, Callable[[], Any]]:
        """Ours first; all add to the same accumulators."""
        held = self.accumulators()
        runs = {"ours": self.run, **self.rivals}
        return {name: lambda run=run: run(*held) for name, run in runs.items()}


def rms_ratio(computed: Tensor, exact: Tensor) -> float:
    """RMS of the difference over RMS of the float64 result; NaN anywhere gives NaN."""
    return float((computed.double() - exact).norm() / exact.norm())


def measure(case: Case, ceilings: Ceilings, device: torch.device, *, quick: bool) -> Record:
    """Verify a case, time it, and set it beside its floor, its rivals and its goal.

    Raises:
        AssertionError: A contender is wrong; nothing was timed.
    """
    error, same, errors = case.verify()
    contenders = case.contenders()
    seconds, least = (0.3, 3) if quick else (1.0, 7)
    times = interleaved(contenders, device, seconds=seconds, least=least)
    ours = times.pop("ours")
    synchronise(device)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    peak = peak_bytes(contenders["ours"], device)
    by_bytes = 1e3 * case.nbytes / ceilings.copy_bytes_per_second
    by_flops = 1e3 * case.flops / ceilings.flops_per_second(case.arithmetic)
    floor = max(by_bytes, by_flops)
    record: Record = {
        "title": case.title,
        "shape": case.shape,
        "dtype": str(case.dtype).removeprefix("torch."),
        "ms": ours._asdict(),
        "floor_ms": floor,
        "floor_by": "bytes" if by_bytes >= by_flops else "flops",
        "bytes_floor_ms": by_bytes,
        "flops_floor_ms": by_flops,
        "over_floor": ours.p50 / floor,
        "rivals": {
            name: {**found._asdict(), "ratio": found.p50 / ours.p50, "error": errors.get(name)}
            for name, found in times.items()
        },
        "error": error,
        "deterministic": same,
        "peak_mib": None if peak is None else peak / 2**20,
        "extra_mib": None if peak is None else (peak - held) / 2**20,
        "note": case.note,
    }
    record["goal"] = case.goal.judged(record)
    if case.width is not None:
        record |= {"width": case.width, "width_ratio": record["goal"]["value"]}
    return record


def against(rival: str) -> Callable[[Record], float]:
    """A rival's median over ours."""
    return lambda record: record["rivals"][rival]["ratio"]


def share_of_bandwidth(record: Record) -> float:
    return record["bytes_floor_ms"] / record["ms"]["p50"]


def share_of_floor(record: Record) -> float:
    return record["floor_ms"] / record["ms"]["p50"]
