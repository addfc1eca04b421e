"""One trial: every row of the table made and evaluated, the pair probed, a sweep, a report."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

import hcnr
from hcnr.demo.evaluation import Evaluation, Examiner
from hcnr.demo.findings import write_metrics_of, write_probe
from hcnr.demo.interpolation import Rivals, interpolate
from hcnr.demo.laboratory import Laboratory
from hcnr.demo.rows import HIGHLIGHT, REPAIRS, Repair
from hcnr.demo.settings import sweep_lab
from hcnr.demo.table import DemoTable, Row
from hcnr.report.gather import gather
from hcnr.report.headline import update_card
from hcnr.report.page import write_html
from hcnr.report.terminal import Bars
from hcnr.sweep_result import SweepResult

RESTORED = "restored"


class Trial:
    """One run over all rows of the table."""

    def __init__(self, lab: Laboratory, out: Path, bars: Bars) -> None:
        """Loads the pair; `out` gets `restored/`."""
        self.lab, self.bars = lab, bars
        self.restored = out / RESTORED
        self.models = {name: lab.load(lab.directory / name) for name in ("base", "tuned")}
        self.examiner = Examiner(lab.tokenizer, lab.world)
        self.rivals = Rivals(self.models["base"], self.models["tuned"], self.examiner)

    def run(self) -> tuple[DemoTable, SweepResult]:
        """Makes and evaluates every row, sweeps, and writes the report of the highlighted one."""
        start = time.perf_counter()
        self.bars.begin("interpolate")
        self.rivals.sweep(self.bars.advance)
        measured = {axis: self._measure(axis) for axis in dict.fromkeys(map(_axis, REPAIRS))}
        repairs = [self._repair(row, *measured[_axis(row)]) for row in REPAIRS]
        highlight = next(row for row in repairs if row.method == HIGHLIGHT)
        rows = [
            Row("base", self.examiner(self.models["base"])),
            self._beside("tuned", self.examiner(self.models["tuned"])),
            *self._interpolated(highlight),
            *repairs,
        ]
        swept = sweep_lab(self.lab, self.restored / "sweep", self.bars)
        verdict = self._report(highlight)
        splits = self.lab.world.splits
        parts = ("unknown", "known", "task")
        facts = {
            "recipe": json.loads((self.lab.directory / "lab.json").read_text())["recipe"],
            "training": self.lab.training,
            "parameters": sum(one.numel() for one in self.models["base"].parameters()),
            "evaluated": {part: len(splits[f"evaluated_{part}"]) for part in parts},
            "validation": {part: len(splits[f"validation_{part}"]) for part in parts},
            "measured": {"honesty": len(self.lab.world.honesty), "task": len(self.lab.world.task)},
            "probe": verdict,
            "measuring_seconds": {axis: seconds for axis, (_, seconds) in measured.items()},
            "seconds": time.perf_counter() - start,
            "versions": {"hcnr": hcnr.__version__, "torch": str(torch.__version__)},
        }
        return DemoTable(rows, self.examiner.refuse_all(), self.rivals.points, facts), swept

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
        start = time.perf_counter()
        restored = hcnr.restore(
            self.lab.base,
            self.lab.tuned,
            out=self.restored if repair.method == HIGHLIGHT else None,
            config=config,
            statistics=statistics,
            # Only ever replaces what is recognisably a checkpoint.
            overwrite=True,
            watcher=self.bars,
        )
        seconds = measuring + time.perf_counter() - start
        model = self.lab.load(restored) if isinstance(restored, Path) else restored
        assert isinstance(model, LlamaForCausalLM)
        if repair.method == HIGHLIGHT:
            self.models[RESTORED] = model
        return self._beside(repair.method, self.examiner(model), seconds, dict(repair.settings))

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
        interpolate(self.models["base"], self.models["tuned"], point.coefficient, point.scope)
        seconds = time.perf_counter() - start
        settings = {"coefficient": point.coefficient, "scope": point.scope}
        return [Row("interpolation", point.evaluation, None, seconds, settings)]

    def _report(self, highlight: Row) -> str:
        """Puts evaluation, probes and the page beside the restored checkpoint.

        Returns:
            The verdict of the probes.
        """
        self.bars.begin("report")
        said = {name: self.examiner.ask(model) for name, model in self.models.items()}
        rival = highlight.rival
        if rival is not None:
            model = interpolate(
                self.models["base"], self.models["tuned"], rival.coefficient, rival.scope
            )
            said["interpolation"] = self.examiner.ask(model)
        write_metrics_of(self.restored, self.examiner, said, self.rivals.points, rival)
        verdict = write_probe(self.restored / "probe.json", self.lab, self.bars)
        run = gather(self.restored)
        update_card(run)
        write_html(run)
        return verdict


def _axis(repair: Repair) -> str:
    return repair.settings["axis"]


def _config(**settings: Any) -> hcnr.RestoreConfig:
    # On the CPU everywhere, so that one world gives one table.
    return hcnr.RestoreConfig(device="cpu", **settings)
