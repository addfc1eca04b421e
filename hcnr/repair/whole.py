"""Repairs of whole matrices: the kinds `spectral` and `natural`, and the search for mu."""

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from hcnr.checkpoint.kept_work import KeptWork
from hcnr.checkpoint.mapped import mapped
from hcnr.config import RestoreConfig
from hcnr.curvature.spectral_bases import GroupwiseBases, SpectralBases, kept_name
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import MeasuringData
from hcnr.data.tokens import TokenizedSet
from hcnr.errors import CheckpointError, ModelError
from hcnr.kinds import DataSet
from hcnr.models.open_models import OpenModels
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.progress import SEARCH, STEPS, Stages
from hcnr.record.files.two_sided import StepRecord, TwoSidedRecord, WeightTrial
from hcnr.repair.candidates import Candidates
from hcnr.repair.compensate import whole_weight
from hcnr.repair.natural import Step, Walk
from hcnr.repair.selection import Selection
from hcnr.repair.task_weight import (
    MOST_TRIES,
    Tried,
    forecast_task_weight,
    retention_of,
    search_task_weight,
)
from hcnr.repair.verdict import EndLosses
from hcnr_kernels import Kept, SpectralBasis

RepairedMatrices = dict[str, tuple[Tensor, dict[str, Any]]]
"""Matrix -> its weight and its numbers."""


@dataclass
class WholeRepairs:
    """Finished weights of whole matrices, and how they were obtained.

    Attributes:
        weights: matrix -> `[out, in]` in tuned's dtype, on the CPU.
        records: matrix -> its numbers, plain values (they are kept while a run is unfinished) of
            `WholeMatrixRecord`.
        facts: of the repair as a whole, for the report.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: TwoSidedRecord | None = None

    def add(self, repaired: RepairedMatrices, *, aside: bool) -> None:
        """Hold what was repaired; `aside` maps weights from files, where memory is not for them."""
        weights = {name: weight for name, (weight, _) in repaired.items()}
        self.weights.update(mapped(weights) if aside else weights)
        self.records.update((name, record) for name, (_, record) in repaired.items())


@dataclass(frozen=True)
class RepairInputs:
    """What a repair is made from, beside its configuration.

    Attributes:
        pair: base and tuned.
        selection: the matrices, and the neurons of kinds that have some.
        statistics: curvature along one axis, for the kinds that use it.
        data: what is measured on, and what is held back.
        ends: losses of base and tuned on samples that decide, or on the measured ones; None where
            base cannot read them and no task weight is searched.
        models: of the pair.
        keep: holds what is finished, for a run after this one was interrupted.
    """

    pair: Pair
    selection: Selection
    statistics: Statistics
    data: MeasuringData
    ends: Mapping[DataSet, EndLosses] | None
    models: OpenModels
    keep: KeptWork = field(default_factory=lambda: KeptWork(None))


def needs_data(config: RestoreConfig) -> bool:
    """Whether a repair takes more from the data than statistics hold."""
    return bool(config.bases) or config.searches


def repair_whole(
    inputs: RepairInputs, config: RestoreConfig, stages: Stages
) -> tuple[RestoreConfig, WholeRepairs]:
    """Carry out what cannot be done matrix by matrix.

    That is everything for `spectral` and `natural`, and the search for the task weight for any
    kind.

    Returns:
        The configuration, its task weight a number; and the repairs, without weights for kinds that
        are repaired matrix by matrix.

    Raises:
        HcnrError: a pass fails, a matrix cannot be factorised, a block does not fit into the
            memory budget, or no task weight keeps the task.
    """
    repairs = WholeRepairs()
    names = inputs.selection.selected
    if not config.searches and config.bases == ("spectral",):
        # One weight and one use of each basis: none has to be kept.
        work = GroupwiseBases(
            inputs.pair, names, inputs.data.sets, config, stages,
            kinds=config.bases, models=inputs.models,
        )  # fmt: skip
        for index, group in enumerate(work.groups):

            def finished(index: int = index) -> RepairedMatrices:
                return {
                    name: _spectral(name, bases["spectral"], inputs.pair, config)
                    for name, bases in work.group(index)
                }

            kept = inputs.keep.of(kept_name("weights", index, group), finished)
            repairs.add(kept, aside=config.streams)
        repairs.facts = _facts(config, work.passes, len(work.groups))
        return config, repairs
    with contextlib.ExitStack() as stack:
        spectral_bases, tried, walk, passes = None, list[Tried](), None, 0
        if not names:
            # Nothing to weigh, and nothing to walk with.
            config = config.replace(task_weight=1.0 if config.searches else config.mu)
        elif config.bases:
            spectral_bases = SpectralBases.measure(
                inputs.pair, names, inputs.data.sets, config, stages,
                kinds=config.bases, models=inputs.models, keep=inputs.keep,
            )  # fmt: skip
            stack.enter_context(spectral_bases)
        if config.searches:
            weight, tried = inputs.keep.of(
                "task weight", partial(_search, inputs, spectral_bases, config, stages), (Tried,)
            )
            config = config.replace(task_weight=weight)
        # What is left needs no model, or one whose weights are written, which is another than this.
        inputs.models.close()
        if spectral_bases is not None and "natural" in config.bases:
            walk = inputs.keep.of(
                "natural steps",
                partial(_walk, inputs.pair, names, spectral_bases, config, stages),
                (Walk, Step),
            )
            for name in names:
                basis = spectral_bases.by_kind["natural"][name]
                deviation = walk.deviations.pop(name).to(basis.device)
                base, tuned = _weights(inputs.pair, name)
                still = not walk.steps and "spectral" not in config.bases
                repairs.weights[name] = (
                    tuned if still else whole_weight(name, base, tuned, deviation)
                )
                repairs.records[name] = record_of(basis, basis.compared(deviation), config)
        elif spectral_bases is not None:
            for name in names:
                basis = spectral_bases.by_kind["spectral"][name]
                repaired = _spectral(name, basis, inputs.pair, config)
                repairs.add({name: repaired}, aside=config.streams)
        if spectral_bases is not None:
            passes = spectral_bases.passes
        groups = 0 if spectral_bases is None else len(spectral_bases.groups)
        repairs.facts = _facts(
            config, passes, groups, tried, walk, inputs.data.held_back.get("task")
        )
    return config, repairs


def record_of(basis: SpectralBasis, kept: Kept, config: RestoreConfig) -> dict[str, Any]:
    """Numbers of one matrix for the report, as plain values."""
    size = basis.output.width * basis.input.width
    derived = kept.restored == kept.restored  # only NaN differs from itself
    return {
        "task_weight": config.mu,
        "damping": list(basis.damping),
        "condition": list(basis.condition),
        "routes": list(basis.routes),
        "restored_directions": kept.restored if derived else None,
        "restored_share": kept.restored / size if derived else None,
        "honesty_left": kept.honesty_left,
        "task_lost": kept.task_lost,
        "spectrum": {
            name: getattr(kept, name).tolist() for name in ("edges", "directions", "energy", "kept")
        },
    }


def _spectral(
    name: str, basis: SpectralBasis, pair: Pair, config: RestoreConfig
) -> tuple[Tensor, dict[str, Any]]:
    """Weight of one matrix, and its numbers."""
    weight = whole_weight(name, *_weights(pair, name), basis.deviation(config.mu))
    return weight, record_of(basis, basis.kept(config.mu), config)


def _weights(pair: Pair, name: str) -> tuple[Tensor, Tensor]:
    return pair.base.weight(name), pair.tuned.weight(name)


def _walk(
    pair: Pair,
    names: list[str],
    spectral_bases: SpectralBases,
    config: RestoreConfig,
    stages: Stages,
) -> Walk:
    """Natural steps in the tuned model, which is as it was at the end."""
    with (
        pair.tuned.opened(config) as model,
        Overlay(model) as overlay,
        stages.stage(STEPS) as watcher,
    ):
        work = Candidates(pair, None, overlay, spectral_bases=spectral_bases)
        return work.walk(config, names, watcher.advance)


def _search(
    inputs: RepairInputs,
    spectral_bases: SpectralBases | None,
    config: RestoreConfig,
    stages: Stages,
) -> tuple[float, list[Tried]]:
    assert inputs.ends is not None
    ends, pair = inputs.ends["task"], inputs.pair
    with (
        stages.stage(SEARCH) as watcher,
        Overlay(model := inputs.models.model("tuned")) as overlay,
    ):
        work = Candidates(pair, inputs.statistics, overlay, spectral_bases=spectral_bases)
        count = itertools.count(1)

        def retention(weight: float) -> float:
            watcher.advance(tries := next(count), max(tries, MOST_TRIES))
            try:
                work.apply(config.replace(task_weight=weight), inputs.selection)
                return retention_of(ends.loss_of(model, config), ends.base, ends.tuned)
            except (CheckpointError, ModelError):
                # A model that overflows keeps nothing; others may do better.
                return -math.inf

        forecast = None if spectral_bases is None else spectral_bases.forecast.get("spectral")
        if forecast is None or config.bases != ("spectral",):
            weight, tried = search_task_weight(retention, config.max_task_drop_percent)
        else:
            # Half of the quadratic form, as a percentage of what fine-tuning gained.
            percent = 50 / (ends.base - ends.tuned)
            weight, tried = forecast_task_weight(
                retention, config.max_task_drop_percent, lambda mu: percent * forecast.lost(mu)
            )
    return weight, tried


def _facts(
    config: RestoreConfig,
    passes: int,
    groups: int,
    tried: Sequence[Tried] = (),
    walk: Walk | None = None,
    held_back: TokenizedSet | None = None,
) -> TwoSidedRecord:
    return TwoSidedRecord(
        kind=config.compensation,
        task_weight=config.mu,
        max_task_drop_percent=config.max_task_drop_percent,
        search=[WeightTrial.model_validate(one.as_dict()) for one in tried],
        held_back=0 if held_back is None else len(held_back),
        held_back_sha256=None if held_back is None else held_back.sha256,
        steps=[] if walk is None else [StepRecord.model_validate(step) for step in walk.steps],
        honesty_loss=None if walk is None else walk.honesty_loss,
        passes=passes,
        groups=groups,
    )
