"""How long the whole job should take on an H100: counts times how often, over what the card can do.

The job of the page: Llama-3.1-8B, 128 + 128 samples of 256 tokens, input axis, 40 % of the matrices
compensated by `sum` with half of their neurons restored. Nothing here has been measured.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from bench.tracking.elimination import elimination

BF16, FP32, BANDWIDTH = 620e12, 50e12, 3.0e12
"""Operations and bytes a second that an H100 reaches in practice, fp32 without TF32."""
LAUNCH = 5e-6
"""Seconds of the host for each launch."""

BLOCKS, SELECTED, SETS, MICRO_BATCHES = 32, 0.4, 2, 4
"""Of 8B; a set is four micro-batches of 8192 tokens."""
SMALL, LARGE = 6 * BLOCKS * SELECTED, BLOCKS * SELECTED
"""Selected matrices that read 4096 neurons, and 14336."""

Counts = Mapping[str, Mapping[str, float]]


class Stage(NamedTuple):
    """A row of the page.

    Attributes:
        name: in words.
        floor: seconds, from the design: operations over the peak or bytes over the bandwidth.
        target: seconds.
        model: seconds; the largest of operations, bytes and launches.
        limit: which of them that is.
        launches: in all.
    """

    name: str
    floor: float
    target: float | None
    model: float
    limit: str
    launches: int


class _Work(NamedTuple):
    operations: float = 0.0
    nbytes: float = 0.0
    launches: float = 0.0

    def plus(self, row: Mapping[str, float], times: float) -> "_Work":
        return _Work(
            self.operations + times * row["operations"],
            self.nbytes + times * row["nbytes"],
            self.launches + times * row["launches"],
        )

    def stage(self, name: str, floor: float, target: float | None, rate: float) -> Stage:
        seconds = {
            "operations": self.operations / rate,
            "bytes": self.nbytes / BANDWIDTH,
            "launches": self.launches * LAUNCH,
        }
        limit = max(seconds, key=lambda kind: seconds[kind])
        return Stage(name, floor, target, seconds[limit], limit, round(self.launches))


def _factors(row: Callable[[str], Mapping[str, float]]) -> Stage:
    """Damped factors and half of the rows of their inverses, by `elimination`'s steps."""
    kinds: dict[str, float] = {}
    launches = 0.0
    for width, often in ((4096, SMALL), (14336, LARGE)):
        seconds = elimination(width, width // 2)
        kinds[seconds.limit] = kinds.get(seconds.limit, 0.0) + often * seconds.model
        launches += often * row(f"factor and half of the inverse's rows, {width}")["launches"]
    limit = max(kinds, key=lambda kind: kinds[kind])
    name = "damped Cholesky, rows of the inverse"
    return Stage(name, 0.7, 1.5, sum(kinds.values()), limit, round(launches))


def stages(counts: Mapping[str, Any]) -> list[Stage]:
    """The compute stages of the job, from the committed counts."""
    rows: Counts = counts["rows"]

    def row(start: str) -> Mapping[str, float]:
        (counts,) = (row for title, row in rows.items() if title.startswith(start))
        return counts

    def of_both(name: str) -> _Work:
        return _Work().plus(row(f"{name}, 4096"), SMALL).plus(row(f"{name}, 14336"), LARGE)

    curvature = _Work()
    # q, k and v read one tensor, gate and up another: one sum each.
    for start, tensors in (("gram_, 8192 tokens, 4096", 3), ("gram_, 8192 tokens, 14336", 1)):
        curvature = curvature.plus(row(start), tensors * BLOCKS * SELECTED * MICRO_BATCHES)
    norms = _Work().plus(row("perturbation, the 7 matrices of an 8B block, three masks"), BLOCKS)
    merges = _Work().plus(row("merge, 14336 x 4096, bf16, with E"), BLOCKS * 218e6 / 58.7e6)
    # Lines of q, k, v, o, gate and up, in those of the tracked matrix.
    objectives = _Work().plus(row("both objectives, 4096"), LARGE * 38912 / 14336)
    objectives = objectives.plus(row("both objectives, 14336"), LARGE)
    # One token Gram a matrix, and a sum each for the samples of even and of odd index.
    started = row("token_gram,")["launches"] + 2 * (row("fisher_input_")["launches"] - 1)
    scores = _Work(75e12, 0.0, SETS * MICRO_BATCHES * 7 * BLOCKS * started)
    products = 4 * 0.5 * 0.5 * BLOCKS * SELECTED * (38912 * 4096**2 + 4096 * 14336**2)
    return [
        _Work(1983e12).stage("forward and backward, both sets", 2.5, 4.3, BF16),
        scores.stage("Fisher scores, Gram form", 0.1, 0.3, 0.5 * 800e12),
        curvature.stage("curvature `x^T x`", 0.15, 0.4, BF16),
        _factors(row),
        of_both("condition").stage("condition estimates", 0.0, None, FP32),
        _Work(products).stage("compensation products", 0.1, 0.6, FP32),
        objectives.stage("objectives of the report", 0.0, None, BF16),
        norms.stage("perturbation norms", 0.01, 0.03, FP32),
        merges.stage("merge", 0.01, 0.02, FP32),
    ]
