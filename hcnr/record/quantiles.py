"""The distribution of Fisher scores, small enough for a report."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hcnr.curvature.statistics import Statistics

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def score_quantiles(statistics: "Statistics") -> dict[str, dict[str, list[float]]]:
    """Quantiles of every matrix's scores, method.md (1), over its neurons.

    Returns:
        By matrix and data set (`honesty`, `task`): the quantiles at `LEVELS`, interpolated
        linearly, with four significant digits.
    """
    import torch

    levels = torch.tensor(LEVELS, dtype=torch.float64)

    def of(scores: torch.Tensor) -> list[float]:
        # torch.quantile refuses more than 16 million values, which no neuron axis has.
        values = torch.quantile(scores.double(), levels.to(scores.device))
        return [float(f"{value:.4g}") for value in values.tolist()]

    return {
        name: {data_set: of(by_matrix[name]) for data_set, by_matrix in statistics.scores.items()}
        for name in statistics.matrices
    }
