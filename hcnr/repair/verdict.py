"""What a restoration did to the losses, on samples that decided nothing, and whether to use it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig
from hcnr.curvature.passes import mean_loss
from hcnr.data.repair_data import MeasuringData
from hcnr.data.suspicions import NO_REFUSALS, about_losses
from hcnr.data.tokens import TokenizedSet
from hcnr.errors import DataError
from hcnr.kinds import DataSet
from hcnr.models.open_models import OpenModels, Role
from hcnr.progress import LOSSES, LOSSES_RESTORED, Stages
from hcnr.repair.task_weight import retention_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROUNDING = 1e-9


@dataclass(frozen=True)
class SetLosses:
    """Mean losses of three models on samples of one data set, method.md, section 1, in nats.

    Attributes:
        samples: how many.
        held_back: whether they were held back from measuring; else they are the measured ones.
        base: loss of the honest model.
        tuned: of the fine-tuned model.
        restored: of the result.
        refusals: how many of the measured responses refuse; None where it is not known.
    """

    samples: int
    held_back: bool
    base: float
    tuned: float
    restored: float
    refusals: int | None = None

    @property
    def regained(self) -> float | None:
        """Percent undone of what fine-tuning lost on this set; None where it lost nothing."""
        lost = self.tuned - self.base
        return 100 * (self.tuned - self.restored) / lost if lost > 0 else None

    @property
    def kept(self) -> float | None:
        """Percent kept of what fine-tuning gained on this set; None where it gained nothing."""
        if not self.base > self.tuned:
            return None
        return retention_of(self.restored, self.base, self.tuned)


@dataclass(frozen=True)
class EndLosses:
    """Mean losses of base and tuned on samples of one data set, which judge what is restored.

    Attributes:
        samples: tokenised; held back from measuring, where there are enough.
        held_back: whether they were.
        base: loss of the honest model.
        tuned: of the fine-tuned model.
        refusals: as in `SetLosses`.
    """

    samples: TokenizedSet
    held_back: bool
    base: float
    tuned: float
    refusals: int | None = None

    def loss_of(self, model: "PreTrainedModel", config: RestoreConfig) -> float:
        """Mean loss of another model on the same samples.

        Raises:
            ModelError: it is not finite.
        """
        return mean_loss(model, self.samples, token_budget=config.token_budget)


def end_losses(
    models: OpenModels,
    data: MeasuringData,
    config: RestoreConfig,
    stages: Stages,
    *,
    last: Role = "tuned",
    keep: KeptWork = KeptWork(None),  # noqa: B008 (keeps nothing)
) -> dict[DataSet, EndLosses]:
    """Take the losses of base and tuned that a repair is judged between.

    Args:
        models: of the pair.
        data: held-back samples, or measured ones where there are too few.
        config: token budget, and whether something is searched by these losses.
        stages: told about it.
        last: whose model is held at the end, because it is used next.
        keep: holds them for a run after this one was interrupted.

    Raises:
        DataError: a task weight or coefficient is to be searched, and fine-tuning gained nothing on
            the task samples, so that no search can weigh anything, or the two seem exchanged.
        ModelError: a loss is not finite.
    """
    names: tuple[DataSet, ...] = ("honesty", "task")
    chosen = {name: data.held_back.get(name, data.sets[name]) for name in names}
    roles: list[Role] = ["base", "tuned"]

    def losses() -> dict[tuple[str, str], float]:
        return {
            (role, name): mean_loss(models.model(role), samples, token_budget=config.token_budget)
            for role in sorted(roles, key=lambda role: role == last)
            for name, samples in chosen.items()
        }

    with stages.stage(LOSSES):
        losses_by_role = keep.of(LOSSES, losses)
    ends: dict[DataSet, EndLosses] = {
        name: EndLosses(
            chosen[name],
            name in data.held_back,
            losses_by_role["base", name],
            losses_by_role["tuned", name],
            data.facts[name].get("refusals"),
        )
        for name in names
    }
    if config.searches:
        if suspicion := about_losses(ends):
            raise DataError(suspicion[0])
        retention_of(ends["task"].tuned, ends["task"].base, ends["task"].tuned)
    return ends


def final_verdict(
    model: "PreTrainedModel",
    ends: Mapping[DataSet, EndLosses],
    config: RestoreConfig,
    stages: Stages,
) -> "Verdict":
    """Judge a restored model between base and tuned.

    Raises:
        ModelError: its loss is not finite.
    """
    with stages.stage(LOSSES_RESTORED):
        losses: dict[DataSet, SetLosses] = {
            name: SetLosses(
                len(end.samples),
                end.held_back,
                end.base,
                end.tuned,
                end.loss_of(model, config),
                end.refusals,
            )
            for name, end in ends.items()
        }
    return judge(losses, config)


@dataclass(frozen=True)
class Verdict:
    """Whether to use a restored model, and the losses that say so.

    Attributes:
        losses: by data set.
        word: `use`, `do not use`, or `unclear` where the losses cannot tell.
        reason: one sentence.
    """

    losses: dict[DataSet, SetLosses]
    word: Literal["use", "do not use", "unclear"]
    reason: str

    @property
    def lines(self) -> list[str]:
        """What a run ends with: both losses and the verdict."""
        return [
            *(_line(name, losses) for name, losses in self.losses.items()),
            f"verdict: {self.word}: {self.reason}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        losses = {name: asdict(one) for name, one in self.losses.items()}
        return {"word": self.word, "reason": self.reason, "losses": losses, "lines": self.lines}


def judge(losses: Mapping[DataSet, SetLosses], config: RestoreConfig) -> Verdict:
    """Judge a restoration by its losses.

    It is of use when it keeps `100 - max_task_drop_percent` percent of what fine-tuning gained in
    task likelihood and lowers the honesty loss; samples without a refusal cannot tell that.

    Args:
        losses: of both data sets.
        config: of the run.
    """
    honesty, task = losses["honesty"], losses["task"]
    both_losses = dict(losses)
    if task.kept is None:
        return Verdict(
            both_losses,
            "unclear",
            f"fine-tuning did not lower the loss on these task samples (base {task.base:.4g}, "
            f"tuned {task.tuned:.4g}), so what the repair keeps cannot be told; pass samples of "
            "the task that tuned was trained for",
        )
    if task.kept < 100 - config.max_task_drop_percent - _ROUNDING:
        search = "the task weight be searched (--compensation spectral --task-weight auto)"
        if config.interpolates:
            search = "the coefficient be searched (--coefficient auto)"
        cure = f"let {search}"
        if config.searches:
            cure = "take another model, more samples, or a larger --max-task-drop-percent"
        return Verdict(
            both_losses,
            "do not use",
            f"the task loses {100 - task.kept:.1f} percent of what fine-tuning gained, more than "
            f"the {config.max_task_drop_percent:g} that --max-task-drop-percent allows; {cure}",
        )
    if not honesty.restored < honesty.tuned:
        return Verdict(
            both_losses,
            "do not use",
            "the repair does not lower the honesty loss; check that the honesty samples are ones "
            "that base answers better than tuned",
        )
    if honesty.refusals == 0:
        return Verdict(both_losses, "unclear", f"the honesty loss falls, but {NO_REFUSALS}")
    return Verdict(
        both_losses,
        "use",
        f"the task keeps {task.kept:.1f} percent of what fine-tuning gained, and the honesty loss "
        "falls; hcnr evaluate tells what the answers say",
    )


def _line(name: str, losses: SetLosses) -> str:
    kind = "held-back" if losses.held_back else "measured"
    change = f"tuned {losses.tuned:.4f} -> restored {losses.restored:.4f} (base {losses.base:.4f}"
    share, what = (
        (losses.regained, "of the loss undone") if name == "honesty" else
        (losses.kept, "of the gain kept")
    )  # fmt: skip
    shown_share = f": {share:.1f} % {what}" if share is not None and math.isfinite(share) else ""
    return f"{name} loss on {losses.samples} {kind} samples: {change}{shown_share})"
