"""A run from the pair to `figures.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from experiments.paper_figures.grids import FIGURES, cases
from experiments.paper_figures.maker import FigureMaker, Say
from experiments.paper_figures.results import Settings, gather
from experiments.paper_figures.stage import cut_down
from experiments.trial.candidate_specs import Samples
from experiments.trial.fair_trial import pair_digest
from experiments.trial.journal import open_journal
from experiments.trial.real_recipe import RealRecipe, Task
from experiments.trial.real_testbed import open_real
from experiments.trial.real_world import pretrained
from experiments.trial.testbed import TestBed
from hcnr.checkpoint import atomic_file
from hcnr.demo.laboratory import quiet
from hcnr.demo.training import fixed_threads


def open_pair(settings: Settings, base: Path | None, data_root: Path | None) -> TestBed:
    """Open the trial's pair; the first time, this trains its models."""
    recipe = RealRecipe.of(cast(Task, settings.task), settings.seed)
    with fixed_threads(settings.threads), quiet():
        return open_real(pretrained(settings.world, base), data_root, recipe, world=settings.world)


def run_figures(
    full_testbed: TestBed, out: Path, settings: Settings, names: Sequence[str], say: Say
) -> dict[str, Any]:
    """Make some figures and write `figures.json` after each.

    Args:
        full_testbed: the trial's pair.
        out: a folder of this pair and these questions alone.
        settings: of the run.
        names: of the figures, in the order in which they are made; none to gather only.
        say: told about every candidate.

    Returns:
        The content of `figures.json`.

    Raises:
        OutputError: `out` holds another pair or other questions, or another process is at it.
    """
    out.mkdir(parents=True, exist_ok=True)
    samples = Samples(settings.samples)
    with fixed_threads(settings.threads), quiet():
        testbed = cut_down(
            full_testbed, out, settings.sets, settings.questions, settings.task_questions
        )
        with open_journal(out / "journal.jsonl", pair_digest(testbed)) as journal:
            maker = FigureMaker(testbed, full_testbed, out, journal, say)
            for name in names:
                if name in FIGURES:
                    maker.ends()
                    maker.candidates(cases(name, samples))
                elif name == "overlap":
                    maker.overlap(samples)
                else:
                    maker.probe()
                _write(out, gather(testbed, out, journal, settings))
            content = gather(testbed, out, journal, settings)
            _write(out, content)
    return content


def _write(out: Path, content: dict[str, Any]) -> None:
    with atomic_file(out / "figures.json", overwrite=True) as temporary:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8")
