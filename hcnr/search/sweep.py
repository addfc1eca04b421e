"""Many configurations from one measurement: a grid, its Pareto front, and the rival's curve."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.choosing.front import Scores, about_order
from hcnr.config import RestoreConfig, SweepConfig
from hcnr.config.calls import takes
from hcnr.curvature.statistics import Statistics
from hcnr.curvature.two_sided import Kind, TwoSided, places_of
from hcnr.data.repair_data import Data
from hcnr.models.model import eval_mode
from hcnr.models.overlay import Overlay
from hcnr.models.pair import Pair
from hcnr.output.bars import shows_progress
from hcnr.pipeline.given import as_measured
from hcnr.pipeline.run import PairRun
from hcnr.pipeline.stages import sweeping_steps
from hcnr.progress import Stages, Watcher
from hcnr.repair.candidates import Candidates, Selections
from hcnr.repair.compensate import check_curvature
from hcnr.search.ablation import ablation
from hcnr.search.checks import (
    check_dtype,
    check_sources,
    check_whole,
    destination,
    repeated_questions,
)
from hcnr.search.grid import Grid
from hcnr.search.result import SweepResult
from hcnr.search.trials import Judge, Trials, as_stored
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
        overwrite: replace an existing `sweep.json`.
        watcher: told about stages and progress.
        progress: bars in a notebook or at a terminal, where no watcher is given.
        **overrides: single settings of `hcnr.SweepConfig`, which win over `settings`.

    Raises:
        HcnrError: anything wrong; with the input, before anything is evaluated.
    """
    config, grid = config or RestoreConfig(), grid or Grid()
    search = SweepConfig.of(settings, overrides)
    if config.task_weight == "auto":
        # Not searched for: the grid has its own, and the ablation takes the first of them.
        config = config.replace(task_weight=grid.task_weight[0])
    plan = [("", one) for one in grid.configs(config)]
    if search.ablate:
        plan += ablation(config).items()
    kinds: list[Kind] = sorted({kind for _, one in plan for kind in one.bases})
    check_sources(statistics, honesty, task, evaluate, [*benchmarks, *tasks], bool(kinds))
    check_dtype(config, kinds)
    check_whole(config)
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    if evaluate is None:
        evaluate = Validation(
            pair.tokenizer(tokenizer),
            benchmarks,
            tasks,
            search,
            chat_template=config.chat_template,
            limits=pair.base.limits & pair.tuned.limits,
        )
    file = None if out is None else destination(Path(out).expanduser(), pair, overwrite)

    given, repeated = statistics is not None, list[str]()
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(d) if isinstance(d, Iterator) else d for d in (honesty, task))
    if honesty is not None and task is not None and isinstance(evaluate, Validation):
        repeated = repeated_questions(evaluate, [honesty, task], config)
    start = time.perf_counter()
    if statistics is not None and not isinstance(statistics, Statistics):
        statistics = Statistics.load(statistics)
    needed = _measuring(config, [one for _, one in plan])
    with PairRun(
        pair, needed, stages, honesty, task,
        tokenizer=tokenizer, statistics=statistics,
        base_reads=any(role == "base" for _, role in places_of(kinds, config)) if kinds else False,
    ) as run:  # fmt: skip
        run.carry_out(sweeping_steps(run.config, run.circumstances))
    statistics = run.statistics
    assert statistics is not None
    measured = time.perf_counter() - start

    selections = Selections(pair, statistics)
    repaired_whole: set[str] = set()
    with stages.stage("select") as watching:
        for done, (_, one) in enumerate(plan):
            selection = selections.of(one)
            check_curvature(statistics, selection, one)
            if one.bases:
                repaired_whole.update(selection.selected)
            watching.advance(done + 1, len(plan))
    with contextlib.ExitStack() as stack:
        two_sided = None
        if kinds:
            start = time.perf_counter()
            names = [name for name in pair.matrices if name in repaired_whole]
            own = as_measured(config, statistics, []) if given else config
            check_dtype(own, kinds)
            assert run.data is not None
            two_sided = TwoSided.measure(pair, names, run.data.sets, own, stages, kinds=kinds)
            stack.enter_context(two_sided)
            measured += time.perf_counter() - start
        judge = Judge(evaluate)
        with stages.stage("evaluate base"):
            honest = judge.source(pair.base, config)
        with pair.tuned.opened(as_stored(config)) as model, eval_mode(model):
            with stages.stage("evaluate tuned"):
                scores = judge(model)
            result = SweepResult(
                honest, scores, search.max_accuracy_drop, config.model_dump(mode="json")
            )
            result.messages += [*pair.messages, *about_order(honest, scores)]
            if given:
                result.messages.append("the cost counts no measuring: the statistics were given")
            if isinstance(evaluate, Validation):
                result.validation = evaluate.sets
                result.validation_settings = evaluate.settings
                result.messages += [*evaluate.notes, *repeated]
            if (refusing := getattr(evaluate, "refuse_all", None)) is not None:
                result.refuse_all = Scores.of(refusing())
            result.pair = pair.facts
            result.data = {name: dict(facts) for name, facts in statistics.data.items()}
            result.versions = versions()
            with Overlay(model) as overlay:
                work = Candidates(pair, statistics, overlay, two_sided=two_sided)
                trials = Trials(result, judge, work, selections, measured, given, file)
                trials.keep()
                with stages.stage("candidates") as watching:
                    trials.restore(model, plan, watching)
                if search.refine and (near := trials.near(grid, config, statistics)):
                    with stages.stage("refine") as watching:
                        trials.restore(model, near, watching, refined=True)
                with stages.stage("interpolate") as watching:
                    trials.interpolate(model, overlay, pair.base, search.coefficients, watching)
    result.complete = True
    trials.keep()
    return result


def _measuring(config: RestoreConfig, plan: Sequence[RestoreConfig]) -> RestoreConfig:
    """The configuration whose measurement serves all of `plan`."""
    dearest = max((settings.kind for settings in plan), key=lambda kind: len(kind.needs))
    if not dearest.needs:
        return config.replace(compensation="none", all_hessians=False)
    return config.replace(compensation=dearest.name, all_hessians=True)
