"""Curvature along the neuron axis in a run: group after group of matrices, within the budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hcnr import ranks
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.checkpoint.mapped import mapped
from hcnr.config import RestoreConfig
from hcnr.curvature.moments import curvature
from hcnr.curvature.passes import Progress
from hcnr.curvature.spectral_bases import kept_name
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import MeasuringData
from hcnr.errors import HcnrError
from hcnr.kinds import DataSet
from hcnr.models.open_models import OpenModels, Role
from hcnr.models.pair import Pair
from hcnr.pipeline.one_axis import kept_apart, one_axis_groups
from hcnr.progress import Stages
from hcnr.record.files.matrix_record import MatrixRecord
from hcnr.repair.compensate import repair
from hcnr.repair.repairs import Finished
from hcnr.repair.selection import Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Opened = Callable[[Role, DataSet, list[str]], "tuple[PreTrainedModel, dict[str, nn.Linear]]"]
"""The model of a role and its layers of some names, checked on a data set when first measured."""


@dataclass(frozen=True)
class NeuronCurvature:
    """Curvature of some matrices on one data set or two, of no more at once than is allowed.

    Attributes:
        pair: base and tuned; it is told where there is more than one group.
        names: the matrices, in the model's order.
        passes: stage, data set and model of each.
        config: axis, memory budget, how to measure.
        data: tokenised samples.
        models: of the pair.
        opened: gives them.
        stages: told about progress.
        keep: holds what is finished.
        settings: of a pass.
    """

    pair: Pair
    names: list[str]
    passes: Sequence[tuple[str, DataSet, Role]]
    config: RestoreConfig
    data: MeasuringData
    models: OpenModels
    opened: Opened
    stages: Stages
    keep: KeptWork
    settings: dict[str, Any]

    def groups(self) -> list[list[str]]:
        """Names of the matrices that are measured together.

        Raises:
            ConfigError: one matrix alone exceeds the memory budget.
        """
        held = self.models.role is not None
        groups = one_axis_groups(self.pair, self.names, self.config, len(self.passes), held=held)
        if len(groups) > 1:
            budget = self.config.memory_budget
            why = "half of what is free" if budget is None else f"a memory budget of {budget:g} GiB"
            self.pair.messages.append(
                f"the curvature was measured for {len(groups)} groups of matrices, one after the "
                f"other, as {why} allows"
            )
        return groups

    def measure(self, groups: list[list[str]]) -> dict[DataSet, dict[str, Tensor]]:
        """All curvature: in memory where it is one group, otherwise out of the way."""
        by_data_set: dict[DataSet, dict[str, Tensor]] = {name: {} for _, name, _ in self.passes}
        total = 0
        for index, group in enumerate(groups):
            for name, grams in self._group(index, group, self.keep).items():
                if len(groups) > 1:
                    total += sum(gram.nbytes for gram in grams.values())
                    grams = kept_apart(grams, self.config.memory_budget, total)
                by_data_set[name].update(grams)
        return by_data_set

    def repair(
        self,
        groups: list[list[str]],
        statistics: Statistics,
        selection: Selection,
        stage: str,
        writes: Callable[[str], bool],
    ) -> Finished:
        """Repair each group as soon as its curvature is there, and let that go.

        Args:
            groups: of `names`.
            statistics: scores and facts; the curvature is put beside them.
            selection: matrices and neurons.
            stage: under whose name compensating is timed.
            writes: whether this process writes a matrix down; others leave it to who does.

        Raises:
            HcnrError: a pass fails, or as `hcnr.repair.compensate.repair`.
        """
        chosen = set(selection.selected)
        count = sum(map(writes, selection.selected))
        finished_matrices: Finished = {}
        for index, group in enumerate(groups):

            def finished(index: int = index, group: list[str] = group) -> dict[str, Any]:
                grams = self._group(index, group, KeptWork(None))
                names = [name for name in group if name in chosen and writes(name)]
                results = self._repaired(
                    names, grams, statistics, selection, stage, len(finished_matrices), count
                )
                # Plain values, which is all that is read back.
                return {
                    name: (weight, record.model_dump(exclude_unset=True))
                    for name, (weight, record) in results.items()
                }

            kept = self.keep.of(kept_name("weights", index, group), finished)
            repaired: Finished = {
                name: (weight, MatrixRecord(**facts)) for name, (weight, facts) in kept.items()
            }
            if self.config.streams:
                weights = mapped({name: weight for name, (weight, _) in repaired.items()})
                repaired = {name: (weights[name], one) for name, (_, one) in repaired.items()}
            finished_matrices.update(repaired)
        return finished_matrices

    def _group(
        self, index: int, group: list[str], keep: KeptWork
    ) -> dict[DataSet, dict[str, Tensor]]:
        """Curvature of one group, on the models' device; the model that is held goes first."""
        by_data_set: dict[DataSet, dict[str, Tensor]] = {}
        for stage, name, role in sorted(self.passes, key=lambda one: one[2] != self.models.role):
            with self.stages.stage(stage) as watcher:
                measured = partial(self._pass, group, name, role, watcher.advance)
                by_data_set[name] = keep.of(kept_name(stage, index, group), measured)
        return by_data_set

    def _pass(
        self, group: list[str], data_set: DataSet, role: Role, progress: Progress
    ) -> dict[str, Tensor]:
        """Curvature of one group on one data set."""
        model, layers = self.opened(role, data_set, self.names)
        chosen = {name: layers[name] for name in group}
        data = self.data.sets[data_set]
        return curvature(
            model, chosen, data, axis=self.config.axis, progress=progress, **self.settings
        )

    def _repaired(
        self,
        names: list[str],
        grams: dict[DataSet, dict[str, Tensor]],
        statistics: Statistics,
        selection: Selection,
        stage: str,
        done: int,
        count: int,
    ) -> Finished:
        """Final weights of a group, those that this process writes."""
        results: Finished = {}
        failed: HcnrError | None = None
        with self.stages.stage(stage) as watcher:
            try:
                for name in names:
                    hessians = {
                        data_set: {name: some.pop(name)} for data_set, some in grams.items()
                    }
                    results[name] = repair(
                        name,
                        self.pair.base.view(name),
                        self.pair.tuned.view(name),
                        replace(statistics, hessians=hessians),
                        selection,
                        self.config,
                    )
                    watcher.advance(done + len(results), count)
            except HcnrError as error:
                failed = error
        ranks.agreed(failed)
        return results
