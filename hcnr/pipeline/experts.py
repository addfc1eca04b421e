"""Experts that too few tokens reach to be measured."""

from collections.abc import Sequence

from hcnr.config import RestoreConfig
from hcnr.curvature.passes import Progress
from hcnr.curvature.routing import LEAST_TOKENS, expert_tokens
from hcnr.data.repair_data import MeasuringData
from hcnr.errors import ModelError
from hcnr.models.linear import Expert
from hcnr.models.open_models import OpenModels, Role
from hcnr.models.pair import Pair


def has_experts(pair: Pair, config: RestoreConfig) -> bool:
    """Whether a target is an expert's."""
    layers = pair.tuned.matrices(config.targets, config.ignore)
    return any(isinstance(one, Expert) for one in layers.values())


def few_tokens(
    models: OpenModels,
    data: MeasuringData,
    roles: Sequence[Role],
    config: RestoreConfig,
    progress: Progress,
) -> tuple[list[str], int]:
    """Experts that too few tokens of a data set reach, at any model something is measured at.

    Args:
        models: of the pair.
        data: what is measured.
        roles: the models that something is measured at.
        config: the token budget.
        progress: called after each micro-batch.

    Returns:
        Names of their matrices, and how many matrices of experts there are.

    Raises:
        HcnrError: a pass fails.
    """
    few: set[str] = set()
    count = 0
    for role in roles:
        for samples in data.sets.values():
            tokens = expert_tokens(
                *models.at(role), samples, token_budget=config.token_budget, progress=progress
            )
            count = len(tokens)
            few.update(matrix for matrix, n in tokens.items() if n < LEAST_TOKENS)
    return sorted(few), count


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
