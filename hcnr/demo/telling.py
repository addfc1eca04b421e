"""What both demos show and leave: their trainings, their files, the report, and how they end."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hcnr.checkpoint import atomic_file
from hcnr.demo.laboratory import Stage
from hcnr.demo.training import Progress
from hcnr.directories import make_directory
from hcnr.evaluation.judged import judge_questions, write_judged
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.evaluation.results import evaluation_folder, write_metrics
from hcnr.evaluation.scoring import SetScores
from hcnr.output import say
from hcnr.output.bars import Bars
from hcnr.record.files.evaluation import EvaluationRecord
from hcnr.report.gather import gather
from hcnr.report.headline import update_card
from hcnr.report.page import write_html


def training_bars(bars: Bars, console: Console) -> Stage:
    """A bar for each training, which happens the first time only; a line without a terminal."""

    def begin(model: str) -> Progress:
        stage = f"train {model} (the first time only; minutes)"
        bars.begin(stage)
        if not console.is_terminal:
            console.print(f"{stage} ...", highlight=False)
        return lambda done, total, loss: bars.advance(done, total)

    return begin


def write_results(out: Path, facts: Mapping[str, Any], markdown: str) -> None:
    """Write `demo.json`, all numbers, and `demo.md`, the table for a README."""
    for name, text in (("demo.json", json.dumps(facts, indent=2) + "\n"), ("demo.md", markdown)):
        with atomic_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def write_evaluation(
    restored: Path,
    question_sets: QuestionSets,
    record: EvaluationRecord,
    responses: Mapping[str, Mapping[str, Sequence[str]]],
    scores: Mapping[str, SetScores],
) -> Path:
    """Write judged answers and `metrics.json` as `hcnr evaluate` does, and return its path."""
    folder = make_directory(evaluation_folder(restored))
    write_judged(folder, judge_questions(question_sets.sets, responses, scores))
    return write_metrics(folder, record)


def write_page(restored: Path) -> None:
    """Write the page of a restored checkpoint, and the headline into its card."""
    run = gather(restored)
    update_card(run)
    write_html(run)


def print_ending(
    console: Console, pair: Path, restored: Path, recommendation: Mapping[str, Any]
) -> None:
    """Print where everything lies, and what to do with the restored checkpoint."""
    what = f"{recommendation['word']}: {recommendation['reason']}"
    say(
        console,
        f"the pair and its data: {pair}",
        f"the report: {restored / 'report.html'}",
        f"recommendation for {restored}: {what}",
        soft_wrap=True,
    )
