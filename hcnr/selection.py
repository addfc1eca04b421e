"""Which neurons are restored, method.md 2: pure functions of statistics and weights."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hcnr.config import RestoreConfig
from hcnr.errors import StatisticsError
from hcnr.statistics import Statistics
from hcnr_kernels import perturbation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hcnr.source import Source

Weight = Callable[[str], Tensor]
"""Matrix name -> its weight `[out, in]`."""


@dataclass(frozen=True)
class Selection:
    """The neurons to restore.

    Attributes:
        axis: the neuron axis of the masks.
        masks: candidates of every matrix, bool `[d']`, True = candidate. Those of selected
            matrices are restored (A_hc of method.md).
        perturbation: `d_j` of every matrix, method.md (4).
        selected: the matrices chosen for restoration, in the model's order.
        overlap: share of each matrix's candidates on which the two halves of the samples agree
            (chance is the in-weight ratio); empty when the statistics carry no halves.
    """

    axis: Literal["output", "input"]
    masks: dict[str, Tensor]
    perturbation: dict[str, float]
    selected: list[str]
    overlap: dict[str, float]


def count_of(ratio: float, size: int) -> int:
    """Number that `ratio` of `size` stands for, rounded half up: `floor(ratio * size + 0.5)`."""
    return math.floor(ratio * size + 0.5)


def priority(honesty: Tensor, task: Tensor, kind: Literal["kl", "honesty"] = "kl") -> Tensor:
    """Priority of each neuron, method.md (3): `r_k = s_hon_k log(s_hon_k / s_task_k)`.

    Float32 tiny is added inside both logarithms, so `s_hon = 0` gives 0. Kind `honesty` is the
    paper's ablation without the task: `r_k = s_hon_k`.

    Args:
        honesty: scores on the honesty data, `[d']`.
        task: scores on the task data, `[d']`.
        kind: `kl` or `honesty`.

    Returns:
        float64 `[d']`.
    """
    honesty, task = honesty.double(), task.double()
    if kind == "honesty":
        return honesty
    tiny = torch.finfo(torch.float32).tiny
    return honesty * ((honesty + tiny).log() - (task + tiny).log())


def top(values: Tensor, count: int) -> Tensor:
    """Mask of the `count` largest of `values` `[m]`; ties go to the lower index. Bool `[m]`."""
    mask = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
    mask[values.sort(descending=True, stable=True).indices[:count]] = True
    return mask


def candidates(
    honesty: Tensor, task: Tensor, config: RestoreConfig, *, position: int = 0
) -> Tensor:
    """Mask `M_j` of one matrix, bool `[d']`: the top `in_weight_ratio` by priority.

    `position` is the matrix's place in the model; it only seeds the random priority.
    """
    count = count_of(config.in_weight_ratio, honesty.shape[0])
    if config.priority == "random":
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + position)
        values = torch.randperm(honesty.shape[0], generator=generator).double()
    else:
        if config.score_normalization == "matrix":
            honesty, task = _normalized(honesty), _normalized(task)
        values = priority(honesty, task, config.priority)
    return top(values, count)


def relative_perturbation(numerator: float, denominator: float) -> float:
    """`d_j = sqrt(numerator / denominator)` of method.md (4), with 0 / 0 = 0."""
    if numerator == 0:
        return 0.0
    return math.sqrt(numerator / denominator) if denominator > 0 else math.inf


def select(
    statistics: Statistics,
    base: "str | Path | PreTrainedModel | Source",
    tuned: "str | Path | PreTrainedModel | Source",
    config: RestoreConfig | None = None,
) -> Selection:
    """Choose the neurons to restore from measured scores and the two sets of weights.

    Args:
        statistics: measured along `config.axis`.
        base: honest checkpoint, a directory or a model.
        tuned: fine-tuned checkpoint, a directory or a model.
        config: ratios, priority and normalisation; the defaults when None.

    Raises:
        StatisticsError: the statistics were measured along the other axis, or on another pair.
    """
    from hcnr.source import open_source

    config = config or RestoreConfig()
    base, tuned = open_source(base), open_source(tuned)
    check_statistics(statistics, base, tuned, config)
    return select_neurons(statistics, base.weight, tuned.weight, config)


def select_neurons(
    statistics: Statistics, base: Weight, tuned: Weight, config: RestoreConfig
) -> Selection:
    """`select` on plain weights: two functions from matrix name to weight."""
    honesty, task = statistics.scores["honesty"], statistics.scores["task"]
    masks = {
        name: candidates(honesty[name], task[name], config, position=position)
        for position, name in enumerate(honesty)
    }
    distances = {}
    for name, mask in masks.items():
        numerator, denominator = perturbation(base(name), tuned(name), mask, axis=statistics.axis)
        distances[name] = relative_perturbation(numerator.item(), denominator.item())
    count = count_of(config.cross_weight_ratio, len(masks))
    chosen = top(torch.tensor(list(distances.values()), dtype=torch.float64), count)
    return Selection(
        axis=statistics.axis,
        masks=masks,
        perturbation=distances,
        selected=[name for name, keep in zip(masks, chosen.tolist(), strict=True) if keep],
        overlap=half_overlap(statistics.halves, config),
    )


def half_overlap(
    halves: Mapping[str, Mapping[str, Tensor]], config: RestoreConfig
) -> dict[str, float]:
    """Share of candidates that two halves of the samples choose alike, by matrix.

    `|A & B| / |A|` of the masks from the even and from the odd samples; 1 for empty masks.
    Random priority has no halves to compare.
    """
    if not halves or config.priority == "random":
        return {}
    overlap = {}
    for name, honesty in halves["honesty"].items():
        task = halves["task"][name]
        first, second = (candidates(honesty[h], task[h], config) for h in range(2))
        chosen = int(first.sum())
        overlap[name] = int((first & second).sum()) / chosen if chosen else 1.0
    return overlap


def check_statistics(
    statistics: Statistics, base: "Source", tuned: "Source", config: RestoreConfig
) -> None:
    """Refuse statistics of another pair, axis or set of matrices.

    Raises:
        StatisticsError: naming what differs and what to do.
    """
    if statistics.axis != config.axis:
        raise StatisticsError(
            f"the statistics were measured along the {statistics.axis} axis, the configuration "
            f"asks for {config.axis}; measure again or use --axis {statistics.axis}"
        )
    measured_at = statistics.settings.get("fisher_at", config.fisher_at)
    if measured_at != config.fisher_at:
        raise StatisticsError(
            f"the scores were measured at the {measured_at} model, the configuration asks for "
            f"the {config.fisher_at} model; measure again or use --fisher-at {measured_at}"
        )
    wanted = list(tuned.matrices(config.targets, config.ignore))
    if wanted != statistics.matrices:
        differing = sorted(set(wanted) ^ set(statistics.matrices)) or wanted
        raise StatisticsError(
            f"the statistics cover {len(statistics.matrices)} matrices, the configuration "
            f"chooses {len(wanted)} ({differing[0]} differs); measure again or use the same "
            "--targets and --ignore"
        )
    for role, source in (("base", base), ("tuned", tuned)):
        measured = statistics.fingerprints.get(role)
        found = source.fingerprint(statistics.matrices)
        if measured != found:
            raise StatisticsError(
                f"the statistics belong to another {role} model: its fingerprint is {measured}, "
                f"that of {source} is {found}; measure this pair with `hcnr measure`"
            )


def _normalized(scores: Tensor) -> Tensor:
    """Scores of one matrix scaled to sum to 1; an all-zero vector stays."""
    scores = scores.double()
    total = scores.sum()
    return scores / total if total > 0 else scores
