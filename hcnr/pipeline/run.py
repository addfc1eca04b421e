"""A run over a pair: each step finds something out, and later ones use it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from hcnr import ranks
from hcnr.checkpoint.kept_work import KeptWork
from hcnr.config import RestoreConfig
from hcnr.curvature.scores import NeuronScores, score
from hcnr.curvature.selfcheck import check_model
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import Data, MeasuringData, read_data
from hcnr.data.suspicions import about_losses, about_memory
from hcnr.kinds import DataSet
from hcnr.models.open_models import Role
from hcnr.models.pair import Pair
from hcnr.pipeline.destination import Destination, Job
from hcnr.pipeline.experts import few_tokens, has_experts, leave
from hcnr.pipeline.inputs import (
    as_measured,
    check_same_data,
    check_same_inputs,
    measured_statistics,
    refuse_changed,
    run_key,
)
from hcnr.pipeline.neurons import NeuronCurvature
from hcnr.pipeline.recomputing import decided
from hcnr.pipeline.stages import (
    Circumstances,
    PlannedStep,
    Work,
    base_runs,
    next_role,
    weights_decide_nothing,
    writing_stages,
)
from hcnr.progress import COUNT, SELECT, Stages
from hcnr.repair.compensate import check_curvature
from hcnr.repair.interpolation import Interpolation
from hcnr.repair.repairs import Finished, Repairs
from hcnr.repair.selection import (
    Selecting,
    Selection,
    check_statistics,
    select_neurons,
    select_whole,
)
from hcnr.repair.verdict import EndLosses, Verdict, end_losses, final_verdict
from hcnr.repair.whole import RepairInputs, WholeRepairs, needs_data, repair_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PairRun:
    """One run, and what its steps have found so far.

    A context: no model is held when it ends.

    Attributes:
        pair: base and tuned.
        config: its settings; what was searched or left to be decided is a value afterwards.
        models: of the pair, one held at a time.
        data: what is measured, and what is held back.
        ends: losses of base and tuned, which a repair is judged between.
        statistics: scores and curvature along the neuron axis; given, or measured.
        selection: matrices and neurons.
        verdict: on the result.
    """

    def __init__(
        self,
        pair: Pair,
        config: RestoreConfig,
        stages: Stages,
        honesty: Data | None = None,
        task: Data | None = None,
        *,
        tokenizer: Any = None,
        statistics: Statistics | None = None,
        destination: Destination | None = None,
        base_reads: bool = False,
        keep: KeptWork | None = None,
        purpose: Mapping[str, Any] | None = None,
    ) -> None:
        """Find nothing out yet, but whether given statistics belong to the pair.

        Args:
            pair: base and tuned, opened.
            config: all settings.
            stages: told about progress.
            honesty: samples, readable more than once.
            task: the same.
            tokenizer: where the tuned model does not come with one.
            statistics: of an earlier measurement, to be used instead of a new one.
            destination: where the result goes, if there is one.
            base_reads: whether base has to read the data for what follows the steps.
            keep: holds what is finished, for a run after this one was interrupted; models in memory
                cannot be told from others, so nothing is kept of theirs.
            purpose: what decides what is kept beside all that is measured, plain values for JSON.

        Raises:
            StatisticsError: the statistics are of another pair or lack what is needed.
        """
        self.pair, self._stages = pair, stages
        self._sources = honesty, task
        self._tokenizer, self._given, self._destination = tokenizer, statistics, destination
        self._base_reads, self._keep = base_reads, keep or KeptWork(None)
        self._purpose = purpose or {}
        if statistics is not None:
            leave(pair, [name for name in statistics.left if name in pair.matrices])
            check_statistics(statistics, pair.base, pair.tuned, pair.matrices, config)
            config = as_measured(config, statistics, pair.messages)
        self.config = self._asked = config
        self.models = pair.models(config)
        self.data: MeasuringData | None = None
        self.ends: dict[DataSet, EndLosses] | None = None
        self.statistics = statistics
        self.selection: Selection | None = None
        self.verdict: Verdict | None = None
        self._scores: dict[str, NeuronScores] = {}
        self._repaired: WholeRepairs | None = None
        self._finished: Finished = {}
        self._job: Job | None = None
        self._checked: set[Role] = set()
        self._next: Role = "tuned"
        self._unchecked = False
        self._writes_next = False
        self._selecting: Selecting | None = None

    def __enter__(self) -> "PairRun":
        return self

    def __exit__(self, *error: object) -> None:
        self.models.__exit__(*error)

    @property
    def circumstances(self) -> Circumstances:
        """What decides its steps beside the configuration."""
        both = None not in self._sources
        measures = self._given is None and not self.config.interpolates
        return Circumstances(
            experts=has_experts(self.pair, self.config),
            measured=self._given is not None,
            reads=measures or needs_data(self.config) or both,
            judges=self._destination is not None,
        )

    def carry_out(self, steps: Iterable[PlannedStep]) -> None:
        """Take the steps one after the other.

        Raises:
            HcnrError: anything wrong with the input, or while computing.
        """
        todo = list(steps)
        for index, step in enumerate(todo):
            self._next = next_role(todo[index + 1 :])
            following = todo[index + 1].work if todo[index + 1 :] else None
            if step.work == "check":
                # Weights that the selection reads next are checked as it does.
                self._unchecked = following == "select"
            self._writes_next = following == "write"
            self._methods[step.work](step)
        if self._destination is None:
            refuse_changed(self.pair)

    def open_kept(self) -> None:
        """Look at what an interrupted run of the same kind has kept, and keep what is finished.

        Raises:
            OutputError: another run is using it.
        """
        key = self._keep.directory and run_key(self.pair, self.config, self.data, self._given)
        if key is not None:
            self.pair.messages.extend(self._keep.open({**key, **self._purpose}))

    def finish(self) -> Any:
        """What the caller gets: the path of a directory, or a model."""
        assert self._destination is not None and self._job is not None
        if self._keep.note is not None:
            self.pair.messages.append(self._keep.note)
        return self._destination.finish(self._job, self.verdict, self.config)

    @property
    def _methods(self) -> dict[Work, Callable[[PlannedStep], None]]:
        """What carries out each kind of work, in the order of a run."""
        return {
            "read": self._read, "check": self._check, "count": self._count,
            "losses": self._losses, "score": self._score, "select": self._select,
            "curvature": self._curvature, "whole": self._whole, "mix": self._mix,
            "write": self._write, "judge": self._judge,
        }  # fmt: skip

    def _read(self, step: PlannedStep) -> None:
        searches = self._destination is not None and self.config.searches
        self.data = read_data(
            self.pair,
            *self._sources,
            self.config,
            self._tokenizer,
            self._stages,
            holding=searches,
            base_runs=base_runs(self.config, self._given is not None)
            or searches
            or self._base_reads,
        )
        check_same_inputs(self.pair, self.config, self.data, self._given)
        self.open_kept()
        self.config = decided(self.pair, self.data, self.config, self._keep)

    def _check(self, step: PlannedStep) -> None:
        if self._given is not None:
            check_same_data(self._given, *self._sources, self.config)
        self.pair.check_finite(self._stages, selects=self._unchecked)

    def _count(self, step: PlannedStep) -> None:
        assert self.data is not None
        roles: list[Role] = (
            ["tuned", "base"] if base_runs(self.config, measured=False) else ["tuned"]
        )
        with self._stages.stage(COUNT) as watcher:
            few, count = self._keep.of(
                COUNT,
                partial(few_tokens, self.models, self.data, roles, self.config, watcher.advance),
            )
        known = set(few)
        leave(self.pair, [name for name in self.pair.matrices if name in known], count)

    def _losses(self, step: PlannedStep) -> None:
        assert self.data is not None
        if not self.data.base_reads:
            self.pair.messages.append(
                "base has no row of its embedding for some tokens of the data, so its losses were "
                "not taken and there is no verdict"
            )
            return
        self.ends = end_losses(
            self.models, self.data, self.config, self._stages, last=self._next, keep=self._keep
        )
        task = self.ends["task"]
        self.pair.messages.extend(about_losses(self.ends) + about_memory(task, task.samples))

    def _score(self, step: PlannedStep) -> None:
        assert self.data is not None
        ((stage, name, role),) = _passes(step)
        samples = self.data.sets[name]
        with self._stages.stage(stage) as watcher:
            self._scores[name] = self._keep.of(
                stage,
                lambda: score(
                    *self._model_at(role, name), samples,
                    progress=watcher.advance, **self._settings,
                ),
                (NeuronScores,),
            )  # fmt: skip

    def _select(self, step: PlannedStep) -> None:
        pair, config = self.pair, self.config
        weights = (pair.base.view, pair.tuned.view)
        refuse = pair.refuse_infinite if self._unchecked else None
        if self.statistics is None:
            assert self.data is not None
            self.statistics = measured_statistics(self.pair, self.config, self.data, self._scores)
        with self._stages.stage(SELECT):
            neurons = bool(self._scores) or self._given is not None
            if neurons and self._selects_late:
                self._selecting = Selecting(self.statistics, config, refuse)
                return
            if neurons:
                self.selection = select_neurons(self.statistics, *weights, config, refuse)
            else:
                self.selection = select_whole(pair.matrices, *weights, config, refuse)
        # Where several processes measure, one selects.
        self.selection = ranks.decided("selection", self.selection)
        if self._given is not None:
            check_curvature(self.statistics, self.selection, config)

    def _curvature(self, step: PlannedStep) -> None:
        assert self.data is not None and self.statistics is not None and self.selection is not None
        wanted = self.pair.matrices if self.config.all_hessians else self.selection.selected
        if not wanted:
            return
        settings = {key: value for key, value in self._settings.items() if key != "axis"}
        work = NeuronCurvature(
            self.pair, wanted, list(_passes(step)), self.config, self.data, self.models,
            self._model_at, self._stages, self._keep, settings,
        )  # fmt: skip
        groups = work.groups()
        target, neurons = self._destination, self.config.kind.scope == "neurons"
        if target is None or not neurons or self.config.searches or len(groups) == 1:
            for name, grams in work.measure(groups).items():
                self.statistics.hessians[name] = grams
            return
        # All that is asked of the curvature is asked at once, so no group has to stay.
        stage = writing_stages(self.config, target.output)[0]
        self._finished = work.repair(groups, self.statistics, self.selection, stage, target.writes)

    def _whole(self, step: PlannedStep) -> None:
        assert self.data is not None and self.statistics is not None and self.selection is not None
        inputs = RepairInputs(
            self.pair, self.selection, self.statistics, self.data, self.ends, self.models,
            self._keep,
        )  # fmt: skip
        self.config, self._repaired = repair_whole(inputs, self.config, self._stages)

    def _mix(self, step: PlannedStep) -> None:
        self.config, self._job = Interpolation.find(
            self.pair, self.data, self.ends, self.config, self._stages, self.models, self._keep
        )

    def _write(self, step: PlannedStep) -> None:
        assert self._destination is not None
        self.models.close()
        refuse_changed(self.pair)
        if self._job is None:
            selection = self._selecting or self.selection
            assert self.statistics is not None and selection is not None
            self._job = Repairs(
                self.pair, self.statistics, selection, self.config, self._stages, self._repaired,
                self._finished,
            )  # fmt: skip
        self._destination.write(self._job)

    def _judge(self, step: PlannedStep) -> None:
        if self.ends is None or not ranks.leads():
            return
        assert self._destination is not None
        with ranks.alone(), self._destination.opened(self.config) as model:
            # By what was asked for: a value that was searched is a number by now.
            self.verdict = final_verdict(model, self.ends, self._asked, self._stages)

    @property
    def _selects_late(self) -> bool:
        """Whether the selection looks at each weight as it is written."""
        copies = self._destination is not None and self._destination.copies
        alone = copies and ranks.size() == 1
        return alone and self._writes_next and weights_decide_nothing(self.config)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "axis": self.config.axis,
            "token_budget": self.config.token_budget,
            "gradient_checkpointing": self.config.recomputes,
        }

    def _model_at(
        self, role: Role, name: str, matrices: list[str] | None = None
    ) -> "tuple[PreTrainedModel, dict[str, nn.Linear]]":
        """The model of a role and its layers, checked when first measured, on data `name`."""
        assert self.data is not None
        model, layers = self.models.at(role, matrices)
        if role not in self._checked:
            check_model(model, layers, self.data.sets[name], **self._settings)
            self._checked.add(role)
        return model, layers


def _passes(step: PlannedStep) -> Iterator[tuple[str, DataSet, Role]]:
    """Name, data set and role of each stage of a step."""
    for stage in step.stages:
        assert stage.data is not None and stage.role is not None
        yield stage.name, stage.data, stage.role
