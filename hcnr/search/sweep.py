"""Many configurations from one measurement: a grid, its Pareto front, and the rival's curve."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.checkpoint.kept_work import KeptWork
from hcnr.choosing.front import Scores, about_order
from hcnr.config import RestoreConfig, SweepConfig
from hcnr.config.calls import takes
from hcnr.curvature.spectral_bases import SpectralBases, passes_of
from hcnr.curvature.statistics import Statistics
from hcnr.data.repair_data import Data, MeasuringData
from hcnr.models.model import eval_mode
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.output.bars import shows_progress
from hcnr.pipeline.inputs import as_measured
from hcnr.pipeline.run import PairRun
from hcnr.pipeline.stages import sweeping_steps
from hcnr.progress import Stages, Watcher
from hcnr.repair.candidates import Candidates, Selections
from hcnr.repair.compensate import check_curvature
from hcnr.search.checks import (
    check_dtype,
    check_sources,
    check_whole,
    destination,
    repeated_questions,
)
from hcnr.search.grid import Grid
from hcnr.search.planning import SweepPlan
from hcnr.search.result import SweepResult
from hcnr.search.resuming import kept_scores, kept_work, question_key
from hcnr.search.trials import Evaluator, Trials, as_stored
from hcnr.search.validation import Validation
from hcnr.versions import versions

if TYPE_CHECKING:
    from peft import PeftModel  # pyright: ignore[reportMissingImports] (optional)
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from hcnr.config.sweep import SweepSettings


@shows_progress
@takes(SweepConfig)
def sweep(
    base: "str | Path | PreTrainedModel | None",
    tuned: "str | Path | PreTrainedModel | PeftModel",
    honesty: Data | None = None,
    task: Data | None = None,
    *,
    statistics: Statistics | str | Path | None = None,
    grid: Grid | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    benchmarks: Sequence[Any] = (),
    tasks: Sequence[Any] = (),
    out: str | Path | None = None,
    config: RestoreConfig | None = None,
    settings: SweepConfig | None = None,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
    fresh: bool = False,
    watcher: Watcher | None = None,
    progress: bool = True,
    **overrides: "Unpack[SweepSettings]",
) -> SweepResult:
    """Try a grid of configurations on one measurement and say which one to take.

    Every candidate is made in the tuned model in memory and undone bit for bit; its weights equal
    those that `restore` writes with its settings. A tuned model that is given in memory is changed
    meanwhile and is as it was at the end, whatever happens.

    Args:
        base: honest checkpoint: a directory, or a model in memory; None for what an adapter names
            as its own.
        tuned: fine-tuned checkpoint of the same architecture, or a PEFT adapter (its directory, or
            PEFT's model), which is merged into base.
        honesty: honesty samples to measure on, unless `statistics` are given.
        task: task samples to measure on, unless `statistics` are given. Kinds that repair whole
            matrices need both data sets even then.
        statistics: from `measure` with `all_hessians` (and `balanced` where the grid has it).
        grid: the configurations; the defaults of `Grid` when None.
        evaluate: model -> `hcnr.choosing.front.Scores`, or anything with its attributes. It
            must leave the weights alone and should ask questions that neither data set holds:
            what is chosen by them is not measured by them. A method `refuse_all`,
            where it has one, says what refusing every question would score.
        benchmarks: in place of `evaluate`: names, jsonl files or `Benchmark`s of honesty sets.
        tasks: the same of task sets.
        out: directory for `sweep.json`, rewritten whole after each candidate.
        config: what the grid does not vary. Where its task weight is `auto`, the grid has the
            numbers; the ablation takes the first of them.
        settings: how candidates are asked and judged, and what is tried beside the grid; the
            defaults when None.
        tokenizer: where the tuned model does not come with one.
        overwrite: replace an existing `sweep.json`; one that was stopped needs none to go on.
        fresh: begin anew. Otherwise a sweep that was stopped goes on from the passes, scores and
            candidates in `sweep.json.unfinished`, by the same models, data, questions and settings.
            Where `evaluate` judges nothing is kept.
        watcher: told about stages and progress.
        progress: bars in a notebook or at a terminal, where no watcher is given.
        **overrides: single settings of `hcnr.SweepConfig`, which win over `settings`.

    Raises:
        HcnrError: anything wrong; with the input, before anything is evaluated.
    """
    config, grid = config or RestoreConfig(), grid or Grid()
    search = SweepConfig.of(settings, overrides)
    plan = SweepPlan.of(config, grid, search)
    config = plan.config
    check_sources(statistics, honesty, task, evaluate, [*benchmarks, *tasks], bool(plan.kinds))
    check_dtype(config, plan.kinds)
    check_whole(config)
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    if evaluate is None:
        evaluate = _open_validation(pair, tokenizer, benchmarks, tasks, search, config)
    file = None if out is None else destination(Path(out).expanduser(), pair, overwrite)
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(d) if isinstance(d, Iterator) else d for d in (honesty, task))
    repeated = repeated_questions(evaluate, honesty, task, config)
    purpose = question_key(evaluate, plan.candidates, search)
    with kept_work(file, evaluate, fresh=fresh) as keep:
        measured = _measure(
            pair, plan, honesty, task, statistics, tokenizer, stages, keep=keep, purpose=purpose
        )
        plan, selections = plan.measured(measured.config), Selections(pair, measured.statistics)
        whole = _select(plan, selections, measured.statistics, stages)
        evaluator = Evaluator(evaluate)
        with contextlib.ExitStack() as stack:
            bases = stack.enter_context(_both_axes(pair, plan, whole, measured, stages, keep))
            with stages.stage("evaluate base"):
                honest, _ = kept_scores(
                    keep, "base", lambda: (evaluator.source(pair.base, config), 0.0)
                )
            model = stack.enter_context(pair.tuned.opened(as_stored(config)))
            stack.enter_context(eval_mode(model))
            with stages.stage("evaluate tuned"):
                scores, _ = kept_scores(keep, "tuned", lambda: (evaluator(model), 0.0))
            result = _begin(pair, plan, measured, evaluate, (honest, scores), search, repeated)
            overlay = stack.enter_context(Overlay(model))
            work = Candidates(pair, measured.statistics, overlay, spectral_bases=bases)
            trials = Trials(
                result, evaluator, work, selections, measured.seconds, measured.reused, file, keep
            )
            trials.keep()
            with stages.stage("candidates") as watching:
                trials.restore(model, plan.candidates, watching)
            if search.refine and (neighbours := trials.near(grid, config, measured.statistics)):
                with stages.stage("refine") as watching:
                    trials.restore(model, neighbours, watching, refined=True)
            with stages.stage("interpolate") as watching:
                trials.interpolate(model, overlay, pair.base, search.coefficients, watching)
        pair.check_unchanged()
        if keep.note is not None:
            result.messages.append(keep.note)
        result.complete = True
        trials.keep()
    return result


@dataclass
class SweepMeasurement:
    """What all candidates are made from.

    Attributes:
        statistics: scores and curvature along one axis.
        data: what was read of both data sets; None where nothing was measured on them.
        reused: whether the statistics were given, so that nobody knows what measuring costs.
        seconds: spent on measuring.
        config: it was measured by, with nothing left open.
    """

    statistics: Statistics
    data: MeasuringData | None
    reused: bool
    seconds: float
    config: RestoreConfig


def _open_validation(
    pair: Pair,
    tokenizer: Any,
    benchmarks: Sequence[Any],
    tasks: Sequence[Any],
    search: SweepConfig,
    config: RestoreConfig,
) -> Validation:
    """Read the questions by which candidates are judged."""
    return Validation(
        pair.tokenizer(tokenizer),
        benchmarks,
        tasks,
        search,
        chat_template=config.chat_template,
        limits=pair.base.limits & pair.tuned.limits,
    )


def _measure(
    pair: Pair,
    plan: SweepPlan,
    honesty: Data | None,
    task: Data | None,
    statistics: Statistics | str | Path | None,
    tokenizer: Any,
    stages: Stages,
    *,
    keep: KeptWork,
    purpose: Mapping[str, Any] | None,
) -> SweepMeasurement:
    """Measure scores and curvature along one axis once for all, unless `statistics` hold them.

    What is finished is kept, for the candidates too: `purpose` decides them, beside what is
    measured.
    """
    start, reused = time.perf_counter(), statistics is not None
    if statistics is not None and not isinstance(statistics, Statistics):
        statistics = Statistics.load(statistics)
    passes = passes_of(plan.kinds, plan.config) if plan.kinds else []
    with PairRun(
        pair, plan.measuring, stages, honesty, task,
        tokenizer=tokenizer, statistics=statistics,
        base_reads=any(role == "base" for _, role in passes), keep=keep, purpose=purpose,
    ) as run:  # fmt: skip
        run.carry_out(sweeping_steps(run.config, run.circumstances))
        if run.data is None:
            run.open_kept()
    assert run.statistics is not None
    spent = time.perf_counter() - start
    return SweepMeasurement(run.statistics, run.data, reused, spent, run.config)


def _select(
    plan: SweepPlan, selections: Selections, statistics: Statistics, stages: Stages
) -> set[str]:
    """Select for every candidate before any is made; returns the matrices repaired whole."""
    whole: set[str] = set()
    with stages.stage("select") as watching:
        for done, (_, config) in enumerate(plan.candidates):
            selection = selections.of(config)
            check_curvature(statistics, selection, config)
            if config.bases:
                whole.update(selection.selected)
            watching.advance(done + 1, len(plan.candidates))
    return whole


@contextlib.contextmanager
def _both_axes(
    pair: Pair,
    plan: SweepPlan,
    whole: set[str],
    measured: SweepMeasurement,
    stages: Stages,
    keep: KeptWork,
) -> Iterator[SpectralBases | None]:
    """Curvature along both axes of the matrices that are repaired whole; None without such."""
    if not plan.kinds:
        yield None
        return
    start, names = time.perf_counter(), [name for name in pair.matrices if name in whole]
    config = as_measured(plan.config, measured.statistics, []) if measured.reused else plan.config
    check_dtype(config, plan.kinds)
    assert measured.data is not None
    sets, kinds = measured.data.sets, plan.kinds
    with SpectralBases.measure(pair, names, sets, config, stages, kinds=kinds, keep=keep) as bases:
        measured.seconds += time.perf_counter() - start
        yield bases


def _begin(
    pair: Pair,
    plan: SweepPlan,
    measured: SweepMeasurement,
    evaluate: Callable[[Any], Any],
    ends: tuple[Scores, Scores],
    search: SweepConfig,
    repeated: list[str],
) -> SweepResult:
    """The result before the first candidate: how base and tuned did, and what was asked."""
    result = SweepResult(*ends, search.max_accuracy_drop, plan.config.model_dump(mode="json"))
    result.messages += [*pair.messages, *about_order(*ends)]
    if measured.reused:
        result.messages.append("the cost counts no measuring: the statistics were given")
    if isinstance(evaluate, Validation):
        result.validation = evaluate.sets
        result.validation_settings = evaluate.settings
        result.messages += [*evaluate.notes, *repeated]
    if (refusing := getattr(evaluate, "refuse_all", None)) is not None:
        result.refuse_all = Scores.of(refusing())
    result.pair = pair.facts
    result.data = {name: dict(facts) for name, facts in measured.statistics.data.items()}
    result.versions = versions()
    return result
