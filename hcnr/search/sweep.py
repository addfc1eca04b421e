"""Many configurations from one measurement: a grid, its Pareto front, and the rival's curve."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hcnr.choosing.front import Scores
from hcnr.choosing.recommendation import MAX_TASK_DROP, check_task_drop
from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.curvature.two_sided import Kind, TwoSided
from hcnr.data.repair_data import Data, read_data
from hcnr.data.samples import load_samples
from hcnr.errors import ConfigError, OutputError, StatisticsError
from hcnr.evaluation.generation import BATCH_SIZE, MAX_NEW_TOKENS
from hcnr.models.model import eval_mode
from hcnr.models.overlay import Overlay, interpolate, parameters_of
from hcnr.models.pair import Pair
from hcnr.models.source import Source
from hcnr.pipeline.given import as_measured, check_same_data
from hcnr.pipeline.measuring import leave
from hcnr.pipeline.restoring import measure
from hcnr.progress import Stages, Watcher
from hcnr.repair.candidates import Candidates, Selections
from hcnr.repair.compensate import check_curvature
from hcnr.repair.selection import check_statistics
from hcnr.search.ablation import ablation
from hcnr.search.grid import Grid, settings_of
from hcnr.search.result import Candidate, SweepResult
from hcnr.search.validation import Validation
from hcnr.versions import versions

if TYPE_CHECKING:
    from peft import PeftModel  # pyright: ignore[reportMissingImports] (optional)
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE = "sweep.json"
INTERPOLATION = tuple(step / 10 for step in range(1, 10))
"""Coefficients of the rival's curve; 0, the tuned model, and 1, the base, are evaluated anyway."""


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
    limit: int | None = None,
    data_root: str | Path | None = None,
    detector: str | None = None,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    interpolation: Sequence[float] = INTERPOLATION,
    max_task_drop: float = MAX_TASK_DROP,
    refine: bool = True,
    ablate: bool = False,
    out: str | Path | None = None,
    config: RestoreConfig | None = None,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
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
        limit: questions of each of those sets; all when None.
        data_root: where sets that are given by name lie.
        detector: judges the answers to all those sets; each set's own when None.
        batch_size: questions answered at once, at first; halved where memory runs out.
        max_new_tokens: most tokens of an answer.
        interpolation: coefficients of the rival's curve, 0 the tuned model, 1 the base.
        max_task_drop: points of task accuracy that the recommended candidate may lose.
        refine: after the grid, also try what lies between the best configuration and its
            neighbours, see `Grid.near`: at most six more.
        ablate: also make the paper's ablation, at the settings of `config`.
        out: directory for `sweep.json`, rewritten whole after each candidate.
        config: what the grid does not vary. Where its task weight is `auto`, the grid has the
            numbers; the ablation takes the first of them.
        tokenizer: where the tuned model does not come with one.
        overwrite: replace an existing `sweep.json`.
        watcher: told about stages and progress.

    Raises:
        HcnrError: anything wrong; with the input, before anything is evaluated.
    """
    config, grid = config or RestoreConfig(), grid or Grid()
    if config.task_weight == "auto":
        # Not searched for: the grid has its own, and the ablation takes the first of them.
        config = config.replace(task_weight=grid.task_weight[0])
    _check_numbers(interpolation, max_task_drop)
    plan = [("", settings) for settings in grid.configs(config)]
    if ablate:
        plan += ablation(config).items()
    kinds: list[Kind] = sorted({kind for _, settings in plan for kind in settings.bases})
    _check_sources(statistics, honesty, task, evaluate, [*benchmarks, *tasks], bool(kinds))
    _check_dtype(config, kinds)
    stages = Stages(watcher)
    pair = Pair.open(base, tuned, config, stages)
    # Opened already: an adapter is not looked up twice.
    honest_end: Any = pair.base
    tuned_end: Any = pair.tuned
    if evaluate is None:
        evaluate = Validation(
            pair.tokenizer(tokenizer),
            benchmarks,
            tasks,
            limit=limit,
            data_root=data_root,
            detector=detector,
            chat_template=config.chat_template,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            limits=pair.base.limits & pair.tuned.limits,
        )
    file = None if out is None else _destination(Path(out).expanduser(), pair, overwrite)

    given, repeated = statistics is not None, list[str]()
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(d) if isinstance(d, Iterator) else d for d in (honesty, task))
    if honesty is not None and task is not None and isinstance(evaluate, Validation):
        repeated = _repeated(evaluate, [honesty, task], config)
    start = time.perf_counter()
    if statistics is None:
        assert honesty is not None and task is not None
        needed = _measuring(config, [settings for _, settings in plan])
        statistics = measure(
            honest_end, tuned_end, honesty, task, needed, tokenizer=tokenizer, watcher=watcher
        )
        leave(pair, statistics.left)
    else:
        if not isinstance(statistics, Statistics):
            statistics = Statistics.load(statistics)
        leave(pair, [name for name in statistics.left if name in pair.matrices])
        check_statistics(statistics, pair.base, pair.tuned, pair.matrices, config)
        check_same_data(statistics, honesty, task, as_measured(config, statistics, []))
        pair.check_finite(stages)
    measured = time.perf_counter() - start

    selections = Selections(pair, statistics)
    repaired_whole: set[str] = set()
    with stages.stage("select") as watching:
        for done, (_, settings) in enumerate(plan):
            selection = selections.of(settings)
            check_curvature(statistics, selection, settings)
            if settings.bases:
                repaired_whole.update(selection.selected)
            watching.advance(done + 1, len(plan))
    with contextlib.ExitStack() as stack:
        two_sided = None
        if kinds:
            start = time.perf_counter()
            names = [name for name in pair.matrices if name in repaired_whole]
            own = as_measured(config, statistics, pair.messages) if given else config
            _check_dtype(own, kinds)
            data = read_data(pair, honesty, task, own, tokenizer, stages).sets
            two_sided = TwoSided.measure(pair, names, data, own, stages, kinds=kinds)
            stack.enter_context(two_sided)
            measured += time.perf_counter() - start
        judge = _Judge(evaluate)
        with stages.stage("evaluate base"):
            honest = judge.source(pair.base, config)
        with pair.tuned.opened(_as_stored(config)) as model, eval_mode(model):
            with stages.stage("evaluate tuned"):
                scores = judge(model)
            result = SweepResult(honest, scores, max_task_drop, config.model_dump(mode="json"))
            result.messages += pair.messages
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
                trials = _Trials(result, judge, work, selections, measured, given, file)
                trials.keep()
                with stages.stage("candidates") as watching:
                    trials.restore(model, plan, watching)
                if refine and (near := trials.near(grid, config, statistics)):
                    with stages.stage("refine") as watching:
                        trials.restore(model, near, watching, refined=True)
                with stages.stage("interpolate") as watching:
                    trials.interpolate(model, overlay, pair.base, interpolation, watching)
    result.complete = True
    trials.keep()
    return result


class _Judge:
    """The evaluation and the seconds it took, which count as nobody's cost."""

    def __init__(self, evaluate: Callable[[Any], Any]) -> None:
        self._evaluate = evaluate
        self.seconds = 0.0

    def __call__(self, model: Any) -> Scores:
        start = time.perf_counter()
        found = Scores.of(self._evaluate(model))
        self.seconds += time.perf_counter() - start
        return found

    def source(self, source: Source, config: RestoreConfig) -> Scores:
        """Evaluate a model that is opened for this alone."""
        with source.opened(_as_stored(config)) as model, eval_mode(model):
            return self(model)


class _Trials:
    """Models made in one place after the other, each judged and written down."""

    def __init__(
        self,
        result: SweepResult,
        judge: _Judge,
        candidates: Candidates,
        selections: Selections,
        measured: float,
        given: bool,
        file: Path | None,
    ) -> None:
        self._result, self._judge, self._file = result, judge, file
        self._candidates, self._selections = candidates, selections
        self._measured, self._given = measured, given

    def near(
        self, grid: Grid, config: RestoreConfig, statistics: Statistics
    ) -> list[tuple[str, RestoreConfig]]:
        """What lies around the best of the grid, as a plan; the model must be the tuned one."""
        best = self._result.recommendation.index
        found = [] if best is None else grid.near(grid.configs(config)[best])
        plan = []
        for settings in found:
            # Selected before anything is applied: a tuned model in memory is changed by that.
            selection = self._selections.of(settings)
            try:
                check_curvature(statistics, selection, settings)
            except StatisticsError as error:
                self._result.messages.append(f"a candidate near the best was left out: {error}")
                continue
            plan.append(("", settings))
        return plan

    def restore(
        self,
        model: Any,
        plan: Sequence[tuple[str, RestoreConfig]],
        watcher: Watcher,
        *,
        refined: bool = False,
    ) -> None:
        """Try the configurations; a named one is a row of the ablation."""
        work = self._candidates
        for done, (name, config) in enumerate(plan):
            before = sum(work.seconds.values())
            selection = self._selections.of(config)
            work.apply(config, selection)
            seconds = sum(work.seconds.values()) - before
            neurons = sum(int(selection.masks[matrix].sum()) for matrix in selection.selected)
            scores = self._judge(model)
            found = Candidate(settings_of(config), scores, neurons, seconds, name, refined)
            (self._result.ablation if name else self._result.candidates).append(found)
            self.keep()
            watcher.advance(done + 1, len(plan))
        work.undo()

    def interpolate(
        self,
        model: Any,
        overlay: Overlay,
        base: Source,
        coefficients: Sequence[float],
        watcher: Watcher,
    ) -> None:
        """Try the rival."""
        values = parameters_of(base)
        for done, coefficient in enumerate(coefficients):
            left = interpolate(model, overlay, values, coefficient)
            if left and done == 0:
                self._result.messages.append(
                    f"interpolation leaves {len(left)} parameters as tuned that base lacks or has "
                    f"in another shape, {left[0]} among them"
                )
            self._result.interpolation.append((coefficient, self._judge(model)))
            self.keep()
            watcher.advance(done + 1, len(coefficients))
        overlay.undo()

    def keep(self) -> None:
        """Account for the work and write down what there is."""
        select, work = self._selections.seconds, self._candidates
        spent = {"measure": self._measured, "select": select, **work.seconds}
        one = self._measured + select / max(len(self._selections), 1) + work.dearest
        self._result.cost = {
            **spent,
            "evaluate": self._judge.seconds,
            # Without a measuring pass of its own a sweep cannot say what a restoration costs.
            "one_restoration": None if self._given else one,
            "ratio": None if self._given else sum(spent.values()) / one,
        }
        if self._file is not None:
            self._result.save(self._file)


def _check_numbers(interpolation: Sequence[float], max_task_drop: float) -> None:
    for coefficient in interpolation:
        if not 0 <= coefficient <= 1:
            raise ConfigError(
                f"interpolation holds {coefficient}, expected coefficients from 0 (tuned) to 1 "
                "(base); correct this value"
            )
    check_task_drop(max_task_drop)


def _check_sources(
    statistics: Any, honesty: Any, task: Any, evaluate: Any, sets: Sequence[Any], two_sided: bool
) -> None:
    """One way to measure and one way to evaluate."""
    if two_sided and (honesty is None or task is None):
        raise ConfigError(
            "spectral and natural measure curvature that no statistics hold, so a sweep with them "
            "needs both data sets; give --honesty and --task, beside --statistics or without, or "
            "leave both kinds out of --compensation"
        )
    if statistics is not None and not two_sided and not (honesty is None and task is None):
        raise ConfigError(
            "both statistics and data to measure on were given; leave the data out to use the "
            "statistics, or the statistics to measure anew"
        )
    if statistics is None and (honesty is None or task is None):
        raise ConfigError(
            "a sweep needs statistics, or both honesty and task data to measure on; give "
            "--statistics, or --honesty and --task"
        )
    if (evaluate is None) == (not sets):
        raise ConfigError(
            "a sweep needs one way to score its candidates, a function or sets of questions; give "
            "either evaluate, or --validation, --benchmarks and --tasks"
        )


def _check_dtype(config: RestoreConfig, kinds: Sequence[Kind]) -> None:
    if "natural" in kinds and config.dtype != "auto":
        raise ConfigError(
            f"dtype is {config.dtype!r}, but natural measures the candidates themselves, which a "
            "sweep makes in the dtype of tuned; leave --dtype at auto or natural out"
        )


def _destination(out: Path, pair: Pair, overwrite: bool) -> Path:
    """The file to write, its directory made."""
    file = out / FILE
    for place in [*pair.base.places, *pair.tuned.places]:
        if place.resolve() in file.resolve().parents:
            raise OutputError(f"{file} is inside the input {place}; choose another --out")
    if file.exists() and not overwrite:
        raise OutputError(f"{file} exists already; choose another --out or pass --overwrite")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{out} cannot be made a directory ({error.strerror}); choose another --out"
        ) from None
    return file


def _repeated(evaluate: Validation, data: Sequence[Any], config: RestoreConfig) -> list[str]:
    """A message where validation questions are measured samples too."""
    measured = [
        sample.prompt
        for source in data
        for sample in load_samples(
            source, limit=config.samples, shuffle_seed=config.shuffle_seed
        ).samples
    ]
    count = evaluate.repeated(measured)
    if not count:
        return []
    return [
        f"{count} of the validation questions are among the measured samples: what is chosen on "
        "measured questions is not measured by them"
    ]


def _measuring(config: RestoreConfig, plan: Sequence[RestoreConfig]) -> RestoreConfig:
    """The configuration whose measurement serves all of `plan`."""
    kinds = {settings.compensation for settings in plan}
    dearest = next((kind for kind in ("balanced", "joint", "sum") if kind in kinds), "none")
    return config.replace(compensation=dearest, all_hessians=dearest != "none")


def _as_stored(config: RestoreConfig) -> RestoreConfig:
    """Open models in their own dtype: the compute dtype is for measuring."""
    return config.replace(dtype="auto")
