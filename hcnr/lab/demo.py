"""The demo: lose honesty, repair it in every way the tool knows, and print who did what."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import LlamaForCausalLM

import hcnr
from hcnr.checkpoint import check_output
from hcnr.errors import OutputError
from hcnr.lab.evaluation import Evaluation, evaluate_model, refuse_everything
from hcnr.lab.interpolation import Rivals, interpolate
from hcnr.lab.laboratory import Laboratory, open_lab, quiet
from hcnr.lab.recipe import Recipe
from hcnr.lab.rows import HIGHLIGHT, REPAIRS, Repair
from hcnr.lab.table import DemoTable, Row
from hcnr.lab.training import fixed_threads
from hcnr.report.terminal import Bars


def run_demo(
    out_dir: str | Path,
    quick: bool = False,
    seed: int = 0,
    console: Console | None = None,
) -> DemoTable:
    """Trains (the first time), breaks, repairs, evaluates, prints and writes everything.

    Every repair is `hcnr.restore` on checkpoint directories, exactly as a user would call it.

    Args:
        out_dir: Gets `restored/` (the highlighted row's checkpoint, with its report), `demo.json`
            (all numbers and settings) and `demo.md` (the table for a README).
        quick: Use the small world of continuous integration.
        seed: Seed of the world and of its trainings.
        console: Where the progress and the table are printed; the terminal if None.

    Returns:
        The table.

    Raises:
        OutputError: `out_dir` is no directory that can be written to; nothing was trained then.
    """
    console = console or Console()
    recipe = Recipe.quick(seed) if quick else Recipe(seed=seed)
    out = Path(out_dir)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the demo cannot write to {out} ({error.strerror}); choose another --out"
        ) from None
    check_output(out / "restored", overwrite=True)
    with fixed_threads(recipe.threads), quiet(), Bars(console, transient=True) as bars:
        lab = open_lab(recipe, _training_bars(bars, console))
        table = _Trial(lab, out, bars).run()
    facts = json.dumps(table.as_dict(), indent=2) + "\n"
    (out / "demo.json").write_text(facts, encoding="utf-8")
    (out / "demo.md").write_text(table.to_markdown(), encoding="utf-8")
    console.print(table.to_rich())
    console.print(f"the pair and its data: {lab.directory}", highlight=False, soft_wrap=True)
    return table


class _Trial:
    """One run over all rows of the table."""

    def __init__(self, lab: Laboratory, out: Path, bars: Bars) -> None:
        self.lab, self.out, self.bars = lab, out, bars
        self.base, self.tuned = lab.load(lab.base), lab.load(lab.tuned)
        self.rivals = Rivals(self.base, self.tuned, self._evaluate)

    def run(self) -> DemoTable:
        """Makes and evaluates every row."""
        start = time.perf_counter()
        self.bars.begin("interpolate")
        self.rivals.sweep(self.bars.advance)
        statistics = {axis: self._measure(axis) for axis in dict.fromkeys(map(_axis, REPAIRS))}
        measuring = {axis: seconds for axis, (_, seconds) in statistics.items()}
        repairs = [self._repair(row, *statistics[_axis(row)]) for row in REPAIRS]
        highlight = next(row for row in repairs if row.method == HIGHLIGHT)
        rows = [
            Row("base", self._evaluate(self.base)),
            self._beside("tuned", self._evaluate(self.tuned)),
            *self._interpolated(highlight),
            *repairs,
        ]
        splits = self.lab.world.splits
        parts = ("unknown", "known", "task")
        facts = {
            "recipe": json.loads((self.lab.directory / "lab.json").read_text())["recipe"],
            "training": self.lab.training,
            "parameters": sum(parameter.numel() for parameter in self.base.parameters()),
            "evaluated": {part: len(splits[f"evaluated_{part}"]) for part in parts},
            "measured": {"honesty": len(self.lab.world.honesty), "task": len(self.lab.world.task)},
            "measuring_seconds": measuring,
            "seconds": time.perf_counter() - start,
            "versions": {"hcnr": hcnr.__version__, "torch": str(torch.__version__)},
        }
        return DemoTable(rows, refuse_everything(self.lab.world), self.rivals.points, facts)

    def _evaluate(self, model: LlamaForCausalLM) -> Evaluation:
        return evaluate_model(model, self.lab.tokenizer, self.lab.world)

    def _measure(self, axis: str) -> tuple[hcnr.Statistics, float]:
        """Measures once for all rows of an axis; balanced needs the most, so it says what."""
        config = _config(axis=axis, compensation="balanced", all_hessians=True)
        start = time.perf_counter()
        lab = self.lab
        found = hcnr.measure(lab.base, lab.tuned, lab.honesty, lab.task, config, watcher=self.bars)
        return found, time.perf_counter() - start

    def _repair(self, repair: Repair, statistics: hcnr.Statistics, measuring: float) -> Row:
        """One row; the highlighted one goes through the directory that is handed to the user."""
        config = _config(**repair.settings)
        place = self.out / "restored" if repair.method == HIGHLIGHT else None
        start = time.perf_counter()
        restored = hcnr.restore(
            self.lab.base,
            self.lab.tuned,
            out=place,
            config=config,
            statistics=statistics,
            # Only ever replaces what is recognisably a checkpoint.
            overwrite=True,
            watcher=self.bars,
        )
        seconds = measuring + time.perf_counter() - start
        model = self.lab.load(restored) if isinstance(restored, Path) else restored
        assert isinstance(model, LlamaForCausalLM)
        settings = dict(repair.settings)
        return self._beside(repair.method, self._evaluate(model), seconds, settings)

    def _beside(
        self,
        method: str,
        evaluation: Evaluation,
        seconds: float | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Row:
        rival = self.rivals.match(evaluation.task_accuracy)
        best = method == HIGHLIGHT
        return Row(method, evaluation, rival, seconds, settings or {}, best)

    def _interpolated(self, highlight: Row) -> list[Row]:
        """Interpolation at the highlighted row's task accuracy, if it ever gets there."""
        point = highlight.rival
        if point is None:
            return []
        start = time.perf_counter()
        interpolate(self.base, self.tuned, point.coefficient, point.scope)
        seconds = time.perf_counter() - start
        settings = {"coefficient": point.coefficient, "scope": point.scope}
        return [Row("interpolation", point.evaluation, None, seconds, settings)]


def _training_bars(
    bars: Bars, console: Console
) -> Callable[[str], Callable[[int, int, float], None]]:
    """A bar for each training, which happens the first time only; a line without a terminal."""

    def begin(model: str) -> Callable[[int, int, float], None]:
        stage = f"train {model} (the first time only; minutes)"
        bars.begin(stage)
        if not console.is_terminal:
            console.print(f"{stage} ...", highlight=False)
        return lambda done, total, loss: bars.advance(done, total)

    return begin


def _axis(repair: Repair) -> str:
    return repair.settings["axis"]


def _config(**settings: Any) -> hcnr.RestoreConfig:
    # On the CPU everywhere, so that one world gives one table.
    return hcnr.RestoreConfig(device="cpu", **settings)
