"""The fair trial: every way of repairing on the same pairs, over several seeds."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Console

from experiments.trial import fine_tuning
from experiments.trial.arena import Arena, open_synthetic, open_text
from experiments.trial.choosing import LEVELS, REAL_LEVELS
from experiments.trial.journal import Journal, open_journal
from experiments.trial.making import key_of
from experiments.trial.preferences import check_trl
from experiments.trial.real_panel import open_real
from experiments.trial.real_recipe import RealRecipe, Task
from experiments.trial.real_world import PACKAGES, pretrained
from experiments.trial.referee import Referee
from experiments.trial.seed_result import SeedResult
from experiments.trial.text_recipe import TextRecipe
from experiments.trial.trial_files import (
    Tables,
    finished_results,
    prepared,
    read_result,
    write_json,
)
from experiments.trial.trial_table import TrialTable
from experiments.trial.ways import WAYS, Way
from hcnr.benchmarks.sources import SourceReader
from hcnr.demo.laboratory import quiet
from hcnr.demo.seeds import MOST_SEEDS
from hcnr.demo.training import Progress, fixed_threads
from hcnr.errors import ConfigError
from hcnr.evaluation.question_sets import QuestionSets
from hcnr.output.bars import Bars
from hcnr.versions import versions

World = Literal["synthetic", "text", "text-mild", "smollm2", "gemma3"]
WORLDS: tuple[World, ...] = ("synthetic", "text", "text-mild", "smollm2", "gemma3")
# Raised whenever the making or judging of candidates changes what a journal holds.
FORMAT = 1
# Raised whenever the choosing changes what is made of a journal.
CHOOSING = 2
# Sums depend on the number of threads; one is what the lab trains with.
_THREADS = 1

OpenArena = Callable[[int, Any], Arena]
"""A seed and whom to tell about trainings -> the arena."""


@dataclasses.dataclass(frozen=True)
class Course:
    """Where a trial is held.

    Attributes:
        world: Its name, as printed.
        open: Opens the arena of a seed.
        levels: Of retention, in percent, at which its ways are compared.
    """

    world: str
    open: OpenArena
    levels: tuple[float, ...] = LEVELS


def open_course(
    world: str,
    *,
    data_root: str | Path | None = None,
    quick: bool = False,
    task: str = "hotpotqa",
    base: str | Path | None = None,
) -> Course:
    """The worlds that a trial can be held in; trains nothing yet.

    Args:
        world: One of `WORLDS`; `text-mild` is `text` with a fine-tuning that costs less honesty,
            `smollm2` and `gemma3` begin with pretrained models.
        data_root: Folder with the authors' files, for all but `synthetic`; `$HCNR_DATA_ROOT` if
            None.
        quick: Take the smaller synthetic world.
        task: What a pretrained model is tuned for, see `real_recipe.TASKS`.
        base: Where the pretrained model lies, see `real_world.pretrained`.

    Raises:
        ConfigError: There is no such world, or none that is quick, or no such task.
        DataError: The world has no data root.
        ModelError: There is no pretrained model.
    """
    if world == "synthetic":
        name = "synthetic, quick" if quick else world
        return Course(name, lambda seed, stage: open_synthetic(seed, quick=quick, stage=stage))
    if world not in WORLDS:
        raise ConfigError(
            f"there is no world named {world!r}, expected one of {', '.join(WORLDS)}; choose "
            "another --world"
        )
    if quick:
        raise ConfigError(
            f"the world {world} has no quick form, only the synthetic one has; leave --quick out"
        )
    # Asked here, so that a missing folder is known before anything is made.
    SourceReader(data_root)
    if world in PACKAGES:
        real, model = RealRecipe.of(cast(Task, task)), pretrained(world, base)
        name = f"{world if base is None else model.name}, {task}"
        return Course(
            name,
            lambda seed, stage: open_real(
                model, data_root, dataclasses.replace(real, seed=seed), world=name, stage=stage
            ),
            REAL_LEVELS,
        )
    recipe = TextRecipe.mild() if world == "text-mild" else TextRecipe()
    return Course(world, lambda seed, stage: open_text(data_root, seed, recipe=recipe, stage=stage))


def run_trial(
    course: Course,
    out: str | Path,
    seeds: Sequence[int],
    *,
    ways: Sequence[Way] = WAYS,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrialTable:
    """Hold the trial seed by seed and write the tables.

    Settings are chosen on the validation questions of each seed, then judged once on the evaluated
    ones. A finished seed of the same pair, grid and versions is read, an unfinished one goes on.
    Several processes may run different seeds into one `out`; a run over all of them makes the
    table.

    Args:
        course: Where.
        out: Gets `seed-N.json` as soon as a seed is finished (`seed-N.jsonl` meanwhile), then
            `trial.json` and `trial.md`.
        seeds: Of the worlds.
        ways: What takes part.
        overwrite: Replace the tables even where they hold seeds or ways that are not asked for.
        console: Where progress is shown; the terminal if None.

    Raises:
        ConfigError: No seeds, or more than there are t values for.
        HcnrError: A way needs a package that is not installed.
        OutputError: `out` cannot be written to, holds a trial of other pairs, or tables that would
            be lost, or another process is at one of the seeds.
    """
    check_seeds(len(seeds))
    check_trl(one for way in ways for one in way.grid)
    console = console or Console()
    names = [way.name for way in ways]
    tables = Tables(prepared(out), "trial", course.world, seeds, names, overwrite)
    tables.check()
    results = run_seeds(course, tables.out, seeds, ways, course.levels, "seed", console)
    table = TrialTable(course.world, results, course.levels)
    if reason := tables.write(table.as_dict(), table.to_markdown()):
        console.print(reason, highlight=False, markup=False)
    return table


def collect_trial(out: str | Path) -> TrialTable:
    """Make the tables of the seeds that are finished in a directory; opens no pair.

    Seeds may come from several machines, each of which trained models of its own: what a seed found
    is in its file, and nothing else is read. Tables that are there are replaced.

    Args:
        out: Holds `seed-N.json`; gets `trial.json` and `trial.md`.

    Raises:
        OutputError: There is no finished seed, they differ in world, ways or levels, or `out`
            cannot be written to.
    """
    results = finished_results(out)
    first = results[0]
    levels = next(iter(first.showings.values())).entries
    table = TrialTable(first.world, results, list(levels))
    seeds = [one.seed for one in results]
    tables = Tables(prepared(out), "trial", first.world, seeds, list(first.showings), True)
    tables.write(table.as_dict(), table.to_markdown())
    return table


def run_seeds(
    course: Course,
    out: Path,
    seeds: Sequence[int],
    ways: Sequence[Way],
    levels: Sequence[float],
    stem: str,
    console: Console,
) -> list[SeedResult]:
    """Results of every seed, each written to `STEM-N.json` as soon as it is there."""
    results = []
    with fixed_threads(_THREADS), quiet(), Bars(console) as bars:
        for seed in seeds:
            arena = course.open(seed, _trainings(bars))
            file = out / f"{stem}-{seed}.json"
            pair = pair_digest(arena)
            key = _key(pair, ways, levels)
            found = read_result(file, key)
            if found is None:
                with open_journal(out / f"seed-{seed}.jsonl", pair) as journal:
                    found = _run_seed(course.world, arena, key, ways, levels, journal, bars)
                write_json(file, found.as_dict())
            results.append(found)
    return results


def _run_seed(
    world: str,
    arena: Arena,
    key: str,
    ways: Sequence[Way],
    levels: Sequence[float],
    journal: Journal,
    bars: Bars,
) -> SeedResult:
    start = time.perf_counter()
    referee = Referee(arena, journal, bars)
    ends = referee.ends()
    showings = referee.hold(ways, levels, ends["tuned"]["validation"])
    facts = {
        "arena": arena.facts,
        "versions": versions(),
        "seconds": time.perf_counter() - start,
    }
    return SeedResult(key, world, arena.seed, ends, showings, facts)


def pair_digest(arena: Arena) -> str:
    """Digest of the checkpoints, the samples, the questions and the versions of a pair."""
    digest = hashlib.sha256()
    files = [*_weights(arena.base), *_weights(arena.tuned), arena.honesty, arena.task]
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    questions = {part: _questions(panel) for part, panel in arena.panels.items()}
    about = [arena.world, arena.seed, arena.refusal, questions, versions(), FORMAT]
    if math.isfinite(arena.least_retention):
        about.append(arena.least_retention)
    if arena.bfloat16:
        about.append("bfloat16")
    constants = [fine_tuning.BATCH_SIZE, fine_tuning.LARGEST_NORM]
    digest.update(json.dumps([about, constants], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _questions(panel: QuestionSets) -> list[dict[str, list[Any]]]:
    """What decides the marks of a part: of the honesty sets, then of the task sets."""
    return [
        {
            name: [[one.prompt, one.question, one.answerable, one.answers] for one in many]
            for name, many in sets.items()
        }
        for sets in (panel.honesty, panel.tasks)
    ]


def check_seeds(count: int) -> None:
    """Refuse a number of seeds that no interval can be given for.

    Raises:
        ConfigError: It is below 1 or above `MOST_SEEDS`.
    """
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(
            f"the number of seeds is {count}, expected 1 to {MOST_SEEDS}; choose another --seeds"
        )


def _key(pair: str, ways: Sequence[Way], levels: Sequence[float]) -> str:
    grids = {way.name: [key_of(one, way.samples) for one in way.grid] for way in ways}
    text = json.dumps([pair, CHOOSING, list(grids.items()), list(levels)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _weights(checkpoint: Path) -> Iterator[Path]:
    yield from sorted(checkpoint.glob("*.safetensors"))


def _trainings(bars: Bars) -> Callable[[str], Progress]:
    """A bar for each training, which happens the first time only."""

    def begin(model: str) -> Progress:
        bars.begin(f"train {model} (the first time only; minutes)")
        return lambda done, total, loss: bars.advance(done, total)

    return begin
