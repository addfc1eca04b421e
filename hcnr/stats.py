"""Bootstrap intervals, and the area under the ROC curve.

The questions of a set are drawn again, with replacement.

One draw serves every model: resample r counts question q equally often for all of them, so the
difference of two models is taken between answers to the same questions (a paired bootstrap). The
draw is not stratified: the share of unanswerable questions varies as it would in a new sample.
"""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from hcnr.config.shared import RESAMPLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 95.0
# Draws held at once: 4 bytes each in the weights, 8 in the indices.
_CHUNK = 2_000_000


def resample(indicators: np.ndarray, *, key: str, resamples: int = RESAMPLES, seed: int = 0
             ) -> np.ndarray:  # fmt: skip
    """Sum indicators over resampled questions.

    Args:
        indicators: what each question adds to each count, float32 `[n, m]`, small integers.
        key: name of the set; the draw depends on it, on `seed` and on `n` alone.
        resamples: number R of resamples.
        seed: of the draw.

    Returns:
        Counts, float64 `[R, m]`, exact.
    """
    sums = [weights @ indicators for weights in _weights(len(indicators), key, resamples, seed)]
    return np.concatenate(sums).astype(np.float64)


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> list[float] | None:
    """Percentile interval of resampled values `[R]`; undefined (NaN) resamples are left out.

    Returns:
        Lower and upper end, or None where no resample is defined.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    tail = (100.0 - level) / 2
    return [float(end) for end in np.percentile(defined, [tail, 100.0 - tail])]


def _weights(n: int, key: str, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `n` questions is drawn: float32 `[chunk, n]`, `resamples` rows in all."""
    words = np.frombuffer(hashlib.sha256(key.encode()).digest(), dtype="<u4")
    generator = np.random.default_rng([seed, *words])
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=size * n)
        yield counts.reshape(size, n).astype(np.float32)


def auroc(
    scores: "NDArray[np.floating]",
    positive: "NDArray[np.bool_]",
    counts: "NDArray[np.integer] | None" = None,
) -> "NDArray[np.float64]":
    """Area under the ROC curve, `P(s+ > s-) + P(s+ = s-) / 2`.

    Args:
        scores: `[n]`.
        positive: `[n]`, the samples that should score high; both classes occur.
        counts: `[..., n]`, how often each sample counts; once when None.

    Returns:
        `[...]`, one area per row of `counts`.
    """
    counts = np.ones(len(scores), np.int64) if counts is None else counts
    above = scores[positive]
    order = np.argsort(scores[~positive], kind="stable")
    below = scores[~positive][order]
    # cumulated[..., k]: weight of the k lowest negatives.
    cumulated = np.cumsum(counts[..., ~positive][..., order], axis=-1)
    cumulated = np.concatenate([np.zeros_like(cumulated[..., :1]), cumulated], axis=-1)
    beaten = cumulated[..., np.searchsorted(below, above, "left")]
    not_above = cumulated[..., np.searchsorted(below, above, "right")]
    weights = counts[..., positive]
    wins = (weights * (beaten + not_above)).sum(-1) / 2
    return wins / (weights.sum(-1) * cumulated[..., -1])


def bootstrap_counts(
    positive: "NDArray[np.bool_]", *, draws: int, seed: int
) -> "NDArray[np.int32]":
    """Stratified bootstrap: how often each draw takes each sample, `[draws, n]`.

    Every draw holds as many samples of each class as there are. The same counts serve every
    block and probe, so that their intervals are paired.
    """
    generator = np.random.default_rng(seed)
    counts = np.empty((draws, len(positive)), np.int32)
    for members in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        size = len(members)
        counts[:, members] = generator.multinomial(size, np.full(size, 1 / size), size=draws)
    return counts
