"""Scores, the selection that they lead to, and curvature where it is needed: a pair is measured."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from hcnr.config import RestoreConfig
from hcnr.curvature.moments import curvature
from hcnr.curvature.routing import LEAST_TOKENS, expert_tokens
from hcnr.curvature.scores import score
from hcnr.curvature.selfcheck import check_model
from hcnr.curvature.statistics import Statistics
from hcnr.curvature.two_sided import places_of
from hcnr.data.repair_data import MeasuringData
from hcnr.errors import ModelError
from hcnr.models.linear import Expert
from hcnr.models.pair import Pair, Role
from hcnr.progress import Stages
from hcnr.repair.selection import Selection, select_neurons, select_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED_WITH = (
    "axis", "targets", "ignore", "fisher_at", "hessian_at", "samples", "shuffle_seed",
    "max_length", "chat_template", "attention", "dtype",
)  # fmt: skip
"""Settings that the numbers in the statistics depend on."""


def base_runs(config: RestoreConfig, statistics: Statistics | None) -> bool:
    """Whether anything is measured at base."""
    if config.interpolates:
        return False
    if config.bases and any(role == "base" for _, role in places_of(config.bases, config)):
        return True
    if statistics is not None or (config.bases and not config.all_hessians):
        return False
    curved = config.all_hessians or bool(config.kind.needs)
    return config.fisher_at == "base" or (curved and config.hessian_at == "base")


def leave_few(pair: Pair, data: MeasuringData, config: RestoreConfig, stages: Stages) -> None:
    """Take experts that too few tokens reach off the pair's matrices, with a message.

    Both data sets count, at every model that something is measured at. Nothing is run where no
    matrix is an expert's.

    Raises:
        HcnrError: a pass fails, or no matrix is left.
    """
    layers = pair.tuned.matrices(config.targets, config.ignore)
    if config.interpolates or not any(isinstance(one, Expert) for one in layers.values()):
        return
    del layers
    roles: list[Role] = ["tuned", "base"] if base_runs(config, None) else ["tuned"]
    few: set[str] = set()
    count = 0
    with pair.models(config) as open_at, stages.stage("count the experts' tokens") as watcher:
        for role in roles:
            for samples in data.sets.values():
                tokens = expert_tokens(
                    *open_at(role), samples,
                    token_budget=config.token_budget, progress=watcher.advance,
                )  # fmt: skip
                count = len(tokens)
                few.update(matrix for matrix, n in tokens.items() if n < LEAST_TOKENS)
    leave(pair, [name for name in pair.matrices if name in few], count)


def leave(pair: Pair, few: Sequence[str], count: int | None = None) -> None:
    """Take experts off the pair's matrices, with a message.

    Args:
        pair: its matrices and messages change.
        few: the experts' matrices, in the model's order.
        count: of all experts' matrices, where it is known.

    Raises:
        ModelError: no matrix is left.
    """
    if not few:
        return
    gone = set(few)
    pair.matrices[:] = [name for name in pair.matrices if name not in gone]
    if not pair.matrices:
        raise ModelError(
            f"fewer than {LEAST_TOKENS} tokens of a data set reach each expert, so none can be "
            "measured; measure more samples, or widen --targets"
        )
    named = ", ".join(few[:4]) + (f" and {len(few) - 4} more" if few[4:] else "")
    pair.messages.append(
        f"{len(few)}{f' of {count}' if count else ''} matrices of experts stay as tuned, because "
        f"fewer than {LEAST_TOKENS} tokens of the honesty or the task data reach them ({named}); "
        "measure more samples to repair them too"
    )


def measure_pair(
    pair: Pair,
    data: MeasuringData,
    config: RestoreConfig,
    stages: Stages,
) -> tuple[Statistics, Selection]:
    """Scores, then the selection they lead to, then curvature where it is needed.

    Where whole matrices are repaired nothing is ranked, so no scores are taken.
    """
    known: dict[str, Any] = {
        "fingerprints": pair.fingerprints,
        "settings": {
            **{key: config.model_dump(mode="json")[key] for key in MEASURED_WITH},
            **_left(pair, config),
        },
        "data": data.facts,
    }
    if config.bases and not config.all_hessians:
        with stages.stage("select"):
            selection = select_whole(pair.matrices, pair.base.weight, pair.tuned.weight, config)
        return Statistics(axis=config.axis, scores={}, halves={}, **known), selection
    settings: dict[str, Any] = {
        "axis": config.axis,
        "token_budget": config.token_budget,
        "gradient_checkpointing": config.gradient_checkpointing,
    }
    with pair.models(config) as open_at:
        checked: set[Role] = set()

        def model_at(
            role: Role, name: str, matrices: list[str] | None = None
        ) -> "tuple[PreTrainedModel, dict[str, nn.Linear]]":
            """The model of a role and its layers, checked when first measured on data `name`."""
            model, layers = open_at(role, matrices)
            if role not in checked:
                check_model(model, layers, data.sets[name], **settings)
                checked.add(role)
            return model, layers

        scores = {}
        for name in data.facts:
            with stages.stage(f"score {name}") as watcher:
                scores[name] = score(
                    *model_at(config.fisher_at, name),
                    data.sets[name],
                    progress=watcher.advance,
                    **settings,
                )
        statistics = Statistics(
            axis=config.axis,
            scores={name: found.mean for name, found in scores.items()},
            halves={name: found.halves for name, found in scores.items()}
            if all(found.halves for found in scores.values())
            else {},
            **known,
        )
        with stages.stage("select"):
            selection = select_neurons(statistics, pair.base.weight, pair.tuned.weight, config)
        wanted = pair.matrices if config.all_hessians else selection.selected
        places: dict[str, Role] = {}
        needs = config.kind.needs
        if wanted and ("honesty" in needs or config.all_hessians):
            places["honesty"] = config.hessian_at
        if wanted and "task" in needs:
            places["task"] = "tuned"
        # The model that is open already goes first, so that none is loaded twice.
        for name in sorted(places, key=lambda name: places[name] != config.fisher_at):
            with stages.stage(f"curvature of {name}") as watcher:
                statistics.hessians[name] = curvature(
                    *model_at(places[name], name, wanted),
                    data.sets[name],
                    progress=watcher.advance,
                    **settings,
                )
    return statistics, selection


def _left(pair: Pair, config: RestoreConfig) -> dict[str, list[str]]:
    """What the statistics say of experts that were left."""
    known = set(pair.matrices)
    few = [n for n in pair.tuned.matrices(config.targets, config.ignore) if n not in known]
    return {"few_tokens": few} if few else {}
