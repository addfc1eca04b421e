"""Which neurons are restored, method.md (3) and (4): pure functions of statistics and weights."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.errors import StatisticsError
from hcnr.kinds import Axis
from hcnr.models.linear import shape_of
from hcnr.models.model import resolve_device
from hcnr.output.notebook import html_table
from hcnr.repair.changes import Changes, Refuse

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hcnr.models.source import Source

Weight = Callable[[str], Tensor]
"""Matrix name -> its weight `[out, in]`."""


@dataclass(frozen=True, repr=False)
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
        selected_overlap: share of the neurons that one half of the samples would restore, over
            all matrices, that the other half would restore too; None without halves.
        untouched: matrices that fine-tuning did not change: neither counted nor selected.
    """

    axis: Axis
    masks: dict[str, Tensor]
    perturbation: dict[str, float]
    selected: list[str]
    overlap: dict[str, float]
    selected_overlap: float | None
    untouched: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Selection({', '.join(f'{name}: {value}' for name, value in self._facts())})"

    def _repr_html_(self) -> str:
        return html_table("Selection", self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        """What a person wants to know of it, in words."""
        count = len(self.masks) - len(self.untouched)
        chosen = [self.masks[name] for name in self.selected]
        restored = sum(int(mask.sum()) for mask in chosen)
        agreed = self.selected_overlap
        return [
            ("axis", str(self.axis)),
            ("matrices", f"{len(self.selected)} of {count}"),
            ("neurons", f"{restored} of {sum(mask.numel() for mask in chosen)} in them"),
            *([] if agreed is None else [("halves agree on", f"{agreed:.0%}")]),
        ]


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
    count = count_of(config.candidate_ratio, honesty.shape[0])
    if config.priority == "random":
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + position)
        values = torch.randperm(honesty.shape[0], generator=generator).to(honesty.device)
    else:
        if config.score_normalization == "matrix":
            honesty, task = _normalized(honesty), _normalized(task)
        values = priority(honesty, task, config.priority)
    return top(values, count)


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
        CheckpointError: the two models do not belong together.
    """
    from hcnr.models.matching import check_match
    from hcnr.models.pair import open_pair

    config = config or RestoreConfig()
    base, tuned = open_pair(base, tuned)
    common = check_match(base, tuned, config)[0]
    left = set(statistics.left)
    matrices = [name for name in common if name not in left]
    check_statistics(statistics, base, tuned, matrices, config)
    return select_neurons(statistics, base.view, tuned.view, config)


def select_neurons(
    statistics: Statistics,
    base: Weight,
    tuned: Weight,
    config: RestoreConfig,
    refuse: Refuse | None = None,
) -> Selection:
    """`select` on plain weights: two functions from matrix name to weight.

    Each weight is read once, also for what the two halves of the samples would have selected, and
    to find whether it is finite where `refuse` is given.
    """
    selecting = Selecting(statistics, config, refuse)
    for name in statistics.matrices:
        selecting.look(name, base(name), tuned(name))
    return selecting.finish()


class Selecting:
    """A selection that is complete once every matrix has been looked at, in any order."""

    def __init__(
        self, statistics: Statistics, config: RestoreConfig, refuse: Refuse | None = None
    ) -> None:
        """Rank the neurons of every matrix; no weight is read yet."""
        self._statistics, self._config, self._refuse = statistics, config, refuse
        device = resolve_device(config.device)
        self._voters = [_masks(statistics.scores, config, device)]
        if statistics.halves and config.priority != "random":
            for half in range(2):
                scores = {
                    data_set: {name: halves[half] for name, halves in by_matrix.items()}
                    for data_set, by_matrix in statistics.halves.items()
                }
                self._voters.append(_masks(scores, config, device))
        self._changes = Changes(device, statistics.axis)

    @property
    def waiting(self) -> list[str]:
        """Matrices that are still to be looked at."""
        return [name for name in self._statistics.matrices if name not in self._changes]

    @property
    def beforehand(self) -> Selection:
        """What is known without a weight, if all matrices are chosen: their neurons."""
        masks = {name: mask.cpu() for name, mask in self._voters[0].items()}
        return Selection(self._statistics.axis, masks, {}, list(masks), {}, None)

    def look(self, name: str, base: Tensor, tuned: Tensor) -> None:
        """Find out how far fine-tuning moved a matrix `[out, in]`."""
        masks = torch.stack([masks[name] for masks in self._voters])
        self._changes.add(name, base, tuned, masks)

    def check(self, name: str) -> bool:
        """Whether fine-tuning moved a matrix that has been looked at.

        Raises:
            CheckpointError: a weight of it is not finite.
        """
        self._changes.check(name, self._refuse)
        return name not in self._changes.untouched

    def finish(self) -> Selection:
        """The selection.

        Raises:
            CheckpointError: a weight is not finite.
        """
        config, order, changes = self._config, self._statistics.matrices, self._changes
        distances = changes.distances(order, len(self._voters), self._refuse)
        untouched = tuple(name for name in order if name in changes.untouched)
        voters = [{name: mask.cpu() for name, mask in masks.items()} for masks in self._voters]
        chosen = [most_perturbed(by_matrix, config, untouched) for by_matrix in distances]
        overlap, selected_overlap = {}, None
        if len(voters) > 1:
            first, second = voters[1:]
            overlap = {name: _agreement(first[name], second[name]) for name in first}
            restored = [
                torch.cat([mask & (name in selected) for name, mask in masks.items()])
                for masks, selected in zip(voters[1:], chosen[1:], strict=True)
            ]
            selected_overlap = _agreement(*restored)
        return Selection(
            axis=self._statistics.axis,
            masks=voters[0],
            perturbation=distances[0],
            selected=chosen[0],
            overlap=overlap,
            selected_overlap=selected_overlap,
            untouched=untouched,
        )


def select_whole(
    matrices: Sequence[str],
    base: Weight,
    tuned: Weight,
    config: RestoreConfig,
    refuse: Refuse | None = None,
) -> Selection:
    """Choose whole matrices: the top `cross_weight_ratio` by perturbation, all neurons of each."""
    masks: dict[str, Tensor] = {}
    changes = Changes(resolve_device(config.device), config.axis)
    for name in matrices:
        weights = base(name), tuned(name)
        size = weights[0].shape[0 if config.axis == "output" else 1]
        masks[name] = torch.ones(size, dtype=torch.bool)
        changes.add(name, *weights, masks[name][None])
    (distances,), untouched = changes.distances(matrices, 1, refuse), changes.untouched
    return Selection(
        axis=config.axis,
        masks=masks,
        perturbation=distances,
        selected=most_perturbed(distances, config, untouched),
        overlap={},
        selected_overlap=None,
        untouched=tuple(untouched),
    )


def _masks(
    scores: Mapping[str, Mapping[str, Tensor]], config: RestoreConfig, device: torch.device
) -> dict[str, Tensor]:
    """Candidates of every matrix, on `device`."""
    return {
        name: candidates(
            honesty.to(device), scores["task"][name].to(device), config, position=position
        )
        for position, (name, honesty) in enumerate(scores["honesty"].items())
    }


def most_perturbed(
    distances: Mapping[str, float], config: RestoreConfig, untouched: Collection[str] = ()
) -> list[str]:
    """The top `cross_weight_ratio` of the matrices, in the model's order.

    Matrices that fine-tuning left `untouched` are not counted among them: where it changed a few
    alone, as with adapters, the ratio is one of those.
    """
    touched = [name for name in distances if name not in untouched]
    values = torch.tensor([distances[name] for name in touched], dtype=torch.float64)
    keep = top(values, count_of(config.cross_weight_ratio, len(touched)))
    return [name for name, kept in zip(touched, keep.tolist(), strict=True) if kept]


def _agreement(first: Tensor, second: Tensor) -> float:
    """`|A & B| / |A|` of two masks; 1 where A is empty."""
    chosen = int(first.sum())
    return int((first & second).sum()) / chosen if chosen else 1.0


def check_statistics(
    statistics: Statistics,
    base: "Source",
    tuned: "Source",
    matrices: Sequence[str],
    config: RestoreConfig,
) -> None:
    """Refuse statistics of another pair, axis or set of matrices.

    Raises:
        StatisticsError: naming what differs and what to do.
    """
    statistics.validate()
    refuse_unless("axis", statistics.axis, config)
    refuse_unless("fisher_at", statistics.settings.get("fisher_at", config.fisher_at), config)
    if list(matrices) != statistics.matrices:
        differing = sorted(set(matrices) ^ set(statistics.matrices)) or matrices
        raise StatisticsError(
            f"the statistics cover {len(statistics.matrices)} matrices, the configuration "
            f"chooses {len(matrices)} ({differing[0]} differs); measure again or use the same "
            "--targets and --ignore"
        )
    layers = tuned.matrices(config.targets, config.ignore)
    for name in matrices:
        layer = layers[name]
        size = shape_of(layer)[0 if config.axis == "output" else 1]
        neurons = statistics.scores["honesty"][name].shape[0]
        if neurons != size:
            raise StatisticsError(
                f"the statistics have {neurons} neurons of {name}, the model has {size}; measure "
                "this pair with `hcnr measure`"
            )
    prints = {"base": base.fingerprint(), "tuned": tuned.fingerprint()}
    known = statistics.fingerprints
    if (
        base.has_fingerprint(known.get("tuned"))
        and tuned.has_fingerprint(known.get("base"))
        and not base.has_fingerprint(known.get("base"))
    ):
        raise StatisticsError(
            f"base and tuned are swapped: the statistics were measured with {tuned} as base and "
            f"{base} as tuned"
        )
    for role, source in (("base", base), ("tuned", tuned)):
        measured, actual = known.get(role), prints[role]
        if not source.has_fingerprint(measured):
            raise StatisticsError(
                f"the statistics belong to another {role} model: its fingerprint is {measured}, "
                f"that of {source} is {actual}; measure this pair with `hcnr measure`"
            )


def refuse_unless(key: str, measured: str, config: RestoreConfig) -> None:
    """Refuse statistics that were measured under another setting than `config` asks for.

    Raises:
        StatisticsError: naming both settings.
    """
    asked = getattr(config, key)
    if measured != asked:
        raise StatisticsError(
            f"the statistics were measured with {key} {measured}, the configuration asks for "
            f"{asked}; measure again or use --{key.replace('_', '-')} {measured}"
        )


def _normalized(scores: Tensor) -> Tensor:
    """Scores of one matrix scaled to sum to 1; an all-zero vector stays."""
    scores = scores.double()
    total = scores.sum()
    return scores / total if total > 0 else scores
