"""The candidates of a sweep, made in one place after the other, judged and written down."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hcnr.checkpoint.kept_work import KeptWork
from hcnr.choosing.front import Scores
from hcnr.config import RestoreConfig
from hcnr.curvature.statistics import Statistics
from hcnr.errors import StatisticsError
from hcnr.models.model import eval_mode
from hcnr.models.overlay import Overlay, interpolate, parameters_of
from hcnr.models.source import Source
from hcnr.progress import Watcher
from hcnr.repair.candidates import Candidates, Selections
from hcnr.repair.compensate import check_curvature
from hcnr.repair.selection import Selection
from hcnr.search.grid import Grid, settings_of
from hcnr.search.result import Candidate, SweepResult
from hcnr.search.resuming import kept_scores


class Evaluator:
    """The evaluation and the seconds it took, which count as nobody's cost."""

    def __init__(self, evaluate: Callable[[Any], Any]) -> None:
        self._evaluate = evaluate
        self.seconds = 0.0

    def __call__(self, model: Any) -> Scores:
        """Evaluate a model as it is."""
        start = time.perf_counter()
        scores = Scores.of(self._evaluate(model))
        self.seconds += time.perf_counter() - start
        return scores

    def source(self, source: Source, config: RestoreConfig) -> Scores:
        """Evaluate a model that is opened for this alone."""
        with source.opened(as_stored(config)) as model, eval_mode(model):
            return self(model)


class Trials:
    """Models made in one place after the other, each judged and written down."""

    def __init__(
        self,
        result: SweepResult,
        evaluator: Evaluator,
        candidates: Candidates,
        selections: Selections,
        measured: float,
        reused: bool,
        file: Path | None,
        keep: KeptWork | None = None,
    ) -> None:
        self._result, self._evaluator, self._file = result, evaluator, file
        self._keep = keep or KeptWork(None)
        self._candidates, self._selections = candidates, selections
        self._measured = measured
        # What one restoration costs is not known of passes that were not taken here.
        self._known = not (reused or self._keep.taken_over)

    def near(
        self, grid: Grid, config: RestoreConfig, statistics: Statistics
    ) -> list[tuple[str, RestoreConfig]]:
        """What lies around the best of the grid, as a plan; the model must be the tuned one."""
        best = self._result.recommendation.index
        nearby = [] if best is None else grid.near(grid.configs(config)[best])
        plan = []
        for settings in nearby:
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
            selection = self._selections.of(config)

            def tried(
                config: RestoreConfig = config, selection: Selection = selection
            ) -> tuple[Scores, float]:
                before = sum(work.seconds.values())
                work.apply(config, selection)
                return self._evaluator(model), sum(work.seconds.values()) - before

            rows = self._result.ablation if name else self._result.candidates
            kept = f"{'ablation' if name else 'candidate'} {len(rows)}"
            scores, seconds = kept_scores(self._keep, kept, tried)
            neurons = sum(int(selection.masks[matrix].sum()) for matrix in selection.selected)
            rows.append(Candidate(settings_of(config), scores, neurons, seconds, name, refined))
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
        values, shapes = parameters_of(base), base.shapes
        left = [
            name
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point() and shapes.get(name) != tuple(parameter.shape)
        ]
        if coefficients and left:
            self._result.messages.append(
                f"interpolation leaves {len(left)} parameters as tuned that base lacks or has "
                f"in another shape, {left[0]} among them"
            )
        for done, coefficient in enumerate(coefficients):

            def mixed(coefficient: float = coefficient) -> tuple[Scores, float]:
                interpolate(model, overlay, values, coefficient)
                return self._evaluator(model), 0.0

            scores, _ = kept_scores(self._keep, f"interpolation {done}", mixed)
            self._result.interpolation.append((coefficient, scores))
            self.keep()
            watcher.advance(done + 1, len(coefficients))
        overlay.undo()

    def keep(self) -> None:
        """Account for the work and write down what there is."""
        select, work = self._selections.seconds, self._candidates
        spent = {"measure": self._measured, "select": select, **work.seconds}
        restoration = self._measured + select / max(len(self._selections), 1) + work.dearest
        self._result.cost = {
            **spent,
            "evaluate": self._evaluator.seconds,
            # Without a measuring pass of its own a sweep cannot say what a restoration costs.
            "one_restoration": restoration if self._known else None,
            "ratio": sum(spent.values()) / restoration if self._known else None,
        }
        if self._file is not None:
            self._result.save(self._file)


def as_stored(config: RestoreConfig) -> RestoreConfig:
    """Open models in their own dtype: the compute dtype is for measuring."""
    return config.replace(dtype="auto")
