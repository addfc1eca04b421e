"""One trial: a sweep, every row of the table made and evaluated, the pair probed, a report."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

import hcnr
from hcnr.choosing.decision import Decision, decide, weigh
from hcnr.choosing.front import Scores
from hcnr.demo.evaluation import Evaluation, Examiner
from hcnr.demo.findings import write_metrics_of, write_probe
from hcnr.demo.interpolation import Rivals, interpolate
from hcnr.demo.laboratory import Laboratory
from hcnr.demo.rows import HIGHLIGHT, REPAIRS, Repair
from hcnr.demo.settings import MAX_ACCURACY_DROP, MAX_TASK_DROP_PERCENT, sweep_lab
from hcnr.demo.table import DemoTable, RepairRow
from hcnr.demo.telling import write_page
from hcnr.directories import make_directory
from hcnr.output.bars import Bars
from hcnr.record.files.decision import Recommended
from hcnr.search.checks import FILE
from hcnr.search.result import SweepResult

RESTORED = "restored"


class DemoTrial:
    """One run over all rows of the table."""

    def __init__(self, lab: Laboratory, out: Path, bars: Bars) -> None:
        """Load the pair; `out` gets `restored/`."""
        self.lab, self.bars = lab, bars
        self.restored = out / RESTORED
        self.models = {name: lab.load(lab.directory / name) for name in ("base", "tuned")}
        self.examiner = Examiner(lab.tokenizer, lab.world)
        self.rivals = Rivals(self.models["base"], self.models["tuned"], self.examiner)

    def run(self) -> tuple[DemoTable, SweepResult]:
        """Sweeps, makes and evaluates every row, and writes the report of the sweep's choice."""
        start = time.perf_counter()
        self.bars.begin("interpolate")
        self.rivals.sweep(self.bars.advance)
        swept = sweep_lab(self.lab, self.bars)
        measured = {axis: self._measure(axis) for axis in dict.fromkeys(map(_axis, REPAIRS))}
        repairs = [self._repair(row, *measured[_axis(row)]) for row in REPAIRS]
        choice = self._choice(swept)
        tuned = self._beside("tuned", self.examiner(self.models["tuned"]))
        rows = [
            RepairRow("base", self.examiner(self.models["base"])),
            tuned,
            *self._interpolated(choice),
            *repairs,
            choice,
        ]
        decision = self._decision(choice, tuned)
        swept.save(make_directory(self.restored / "sweep") / FILE)
        probed = self._report(choice, decision)
        splits = self.lab.world.splits
        parts = ("unknown", "known", "task")
        facts = {
            "recipe": json.loads((self.lab.directory / "lab.json").read_text())["recipe"],
            "training": self.lab.training,
            "parameters": sum(parameter.numel() for parameter in self.models["base"].parameters()),
            "evaluated": {part: len(splits[f"evaluated_{part}"]) for part in parts},
            "validation": {part: len(splits[f"validation_{part}"]) for part in parts},
            "measured": {"honesty": len(self.lab.world.honesty), "task": len(self.lab.world.task)},
            "probe": probed,
            "recommendation": Recommended.by(decision).as_dict(),
            "measuring_seconds": {axis: seconds for axis, (_, seconds) in measured.items()},
            "seconds": time.perf_counter() - start,
            "versions": {"hcnr": hcnr.__version__, "torch": str(torch.__version__)},
        }
        return DemoTable(rows, self.examiner.refuse_all(), self.rivals.points, facts), swept

    def _measure(self, axis: str) -> tuple[hcnr.Statistics, float]:
        """Measure once for all rows of an axis; balanced needs the most, so it says what."""
        config = _config(axis=axis, compensation="balanced", all_hessians=True)
        start = time.perf_counter()
        lab = self.lab
        statistics = hcnr.measure(
            lab.base, lab.tuned, lab.honesty, lab.task, config, watcher=self.bars
        )
        return statistics, time.perf_counter() - start

    def _repair(self, repair: Repair, statistics: hcnr.Statistics, measuring: float) -> RepairRow:
        """One row of fixed settings, repaired in memory."""
        start = time.perf_counter()
        model = hcnr.restore(
            self.lab.base,
            self.lab.tuned,
            config=_config(**repair.settings),
            statistics=statistics,
            watcher=self.bars,
        )
        seconds = measuring + time.perf_counter() - start
        assert isinstance(model, LlamaForCausalLM)
        return self._beside(repair.method, self.examiner(model), seconds, dict(repair.settings))

    def _choice(self, swept: SweepResult) -> RepairRow:
        """The sweep's best candidate, in the directory that is handed to the user.

        Where no candidate is better than tuned, the last of the fixed rows stands in, so that there
        is a report that says so.
        """
        best = swept.recommendation.index
        settings = dict(REPAIRS[-1].settings if best is None else swept.candidates[best].settings)
        start = time.perf_counter()
        hcnr.restore(
            self.lab.base,
            self.lab.tuned,
            self.lab.honesty,
            self.lab.task,
            self.restored,
            config=_config(max_task_drop_percent=MAX_TASK_DROP_PERCENT, **settings),
            # Only ever replaces what is recognisably a checkpoint.
            overwrite=True,
            watcher=self.bars,
        )
        seconds = time.perf_counter() - start
        self.models[RESTORED] = model = self.lab.load(self.restored)
        return self._beside(HIGHLIGHT, self.examiner(model), seconds, settings)

    def _decision(self, choice: RepairRow, tuned: RepairRow) -> Decision:
        """What to do with the sweep's choice, by questions that chose nothing."""
        # What to do instead is known as closely as the rivals of the rows.
        self.rivals.match(tuned.evaluation.task_accuracy - MAX_ACCURACY_DROP)
        points = [(point.coefficient, Scores.of(point.evaluation)) for point in self.rivals.points]
        scores, start = Scores.of(choice.evaluation), Scores.of(tuned.evaluation)
        return decide(weigh(scores, start, points, MAX_ACCURACY_DROP))

    def _beside(
        self,
        method: str,
        evaluation: Evaluation,
        seconds: float | None = None,
        settings: dict[str, Any] | None = None,
    ) -> RepairRow:
        rival = self.rivals.match(evaluation.task_accuracy)
        best = method == HIGHLIGHT
        return RepairRow(method, evaluation, rival, seconds, settings or {}, best)

    def _interpolated(self, highlight: RepairRow) -> list[RepairRow]:
        """Interpolation at the highlighted row's task accuracy, if it ever gets there."""
        point = highlight.rival
        if point is None:
            return []
        start = time.perf_counter()
        interpolate(self.models["base"], self.models["tuned"], point.coefficient, point.scope)
        seconds = time.perf_counter() - start
        settings = {"coefficient": point.coefficient, "scope": point.scope}
        return [RepairRow("interpolation", point.evaluation, None, seconds, settings)]

    def _report(self, highlight: RepairRow, decision: Decision) -> str:
        """Put evaluation, probes and the page beside the restored checkpoint.

        Returns:
            The verdict of the probes.
        """
        self.bars.begin("report")
        responses = {name: self.examiner.ask(model) for name, model in self.models.items()}
        rival = highlight.rival
        if rival is not None:
            model = interpolate(
                self.models["base"], self.models["tuned"], rival.coefficient, rival.scope
            )
            responses["interpolation"] = self.examiner.ask(model)
        points = self.rivals.points
        write_metrics_of(self.restored, self.examiner, responses, points, rival, decision)
        verdict = write_probe(self.restored / "probe.json", self.lab, self.bars)
        write_page(self.restored)
        return verdict


def _axis(repair: Repair) -> str:
    return repair.settings["axis"]


def _config(**settings: Any) -> hcnr.RestoreConfig:
    # On the CPU everywhere, so that one world gives one table.
    return hcnr.RestoreConfig(device="cpu", **settings)
