"""Bootstrap intervals: the questions of a set are drawn again, with replacement.

One draw serves every model: resample r counts question q equally often for all of them, so the
difference of two models is taken between answers to the same questions (a paired bootstrap). The
draw is not stratified: the share of unanswerable questions varies as it would in a new sample.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

RESAMPLES = 2000
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
