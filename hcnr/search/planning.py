"""What a sweep tries, and what has to be measured for all of it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hcnr.config import RestoreConfig, SweepConfig
from hcnr.kinds import Basis
from hcnr.search.ablation import ablation
from hcnr.search.grid import Grid

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep tries.

    Attributes:
        config: what the candidates share; its task weight is a number.
        candidates: configurations in their order; a named one is a row of the ablation.
        kinds: those of them that need curvature along both axes, sorted.
    """

    config: RestoreConfig
    candidates: list[tuple[str, RestoreConfig]]
    kinds: list[Basis]

    @classmethod
    def of(cls, config: RestoreConfig, grid: Grid, search: SweepConfig) -> "Self":
        """The grid, then the ablation where it is asked for."""
        if config.task_weight == "auto":
            # Not searched for: the grid has its own, and the ablation takes the first of them.
            config = config.replace(task_weight=grid.task_weight[0])
        candidates = [("", one) for one in grid.configs(config)]
        if search.ablate:
            candidates += ablation(config).items()
        kinds: list[Basis] = sorted({kind for _, one in candidates for kind in one.bases})
        return cls(config, candidates, kinds)

    def measured(self, config: RestoreConfig) -> "Self":
        """The same where measuring decided how blocks are run and how much memory they leave."""

        def of(candidate: RestoreConfig) -> RestoreConfig:
            return candidate.replace(
                gradient_checkpointing=config.gradient_checkpointing,
                memory_budget=config.memory_budget,
            )

        candidates = [(name, of(one)) for name, one in self.candidates]
        return replace(self, config=of(self.config), candidates=candidates)

    @property
    def measuring(self) -> RestoreConfig:
        """The configuration whose measurement serves all candidates."""
        dearest = max((one.kind for _, one in self.candidates), key=lambda kind: len(kind.needs))
        if not dearest.needs:
            return self.config.replace(compensation="none", all_hessians=False)
        return self.config.replace(compensation=dearest.name, all_hessians=True)
