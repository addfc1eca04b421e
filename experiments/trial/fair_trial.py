"""The fair trial: every method on the same pairs, over several seeds."""

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
from experiments.trial.candidate_specs import candidate_key
from experiments.trial.journal import Journal, open_journal
from experiments.trial.methods import METHODS, Method
from experiments.trial.preferences import check_trl
from experiments.trial.real_recipe import RealRecipe, Task
from experiments.trial.real_testbed import open_real
from experiments.trial.real_world import PACKAGES, pretrained
from experiments.trial.seed_result import SeedResult
from experiments.trial.seed_runner import SeedRunner
from experiments.trial.selection import LEVELS, REAL_LEVELS
from experiments.trial.testbed import TestBed, open_synthetic, open_text
from experiments.trial.text_recipe import TextRecipe
from experiments.trial.trial_files import (
    Tables,
    finished_results,
    prepared,
    read_result,
    write_json,
)
from experiments.trial.trial_table import TrialTable
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
# Raised whenever the building or evaluation of candidates changes what a journal holds.
FORMAT = 1
# Raised whenever the choosing changes what is made of a journal.
CHOOSING = 2
# Sums depend on the number of threads; one is what the lab trains with.
_THREADS = 1

OpenTestBed = Callable[[int, Any], TestBed]
"""A seed and whom to tell about trainings -> the test bed."""


@dataclasses.dataclass(frozen=True)
class Environment:
    """Where a trial is held.

    Attributes:
        world: Its name, as printed.
        open: Opens the test bed of a seed.
        levels: Of retention, in percent, at which its methods are compared.
    """

    world: str
    open: OpenTestBed
    levels: tuple[float, ...] = LEVELS


def open_environment(
    world: str,
    *,
    data_root: str | Path | None = None,
    quick: bool = False,
    task: str = "hotpotqa",
    base: str | Path | None = None,
) -> Environment:
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
        return Environment(name, lambda seed, stage: open_synthetic(seed, quick=quick, stage=stage))
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
        return Environment(
            name,
            lambda seed, stage: open_real(
                model, data_root, dataclasses.replace(real, seed=seed), world=name, stage=stage
            ),
            REAL_LEVELS,
        )
    recipe = TextRecipe.mild() if world == "text-mild" else TextRecipe()
    return Environment(
        world, lambda seed, stage: open_text(data_root, seed, recipe=recipe, stage=stage)
    )


def run_trial(
    environment: Environment,
    out: str | Path,
    seeds: Sequence[int],
    *,
    methods: Sequence[Method] = METHODS,
    overwrite: bool = False,
    console: Console | None = None,
) -> TrialTable:
    """Hold the trial seed by seed and write the tables.

    Settings are chosen on the validation questions of each seed, then evaluated once on the test
    ones. A finished seed of the same pair, grid and versions is read, an unfinished one goes on.
    Several processes may run different seeds into one `out`; a run over all of them makes the
    table.

    Args:
        environment: Where.
        out: Gets `seed-N.json` as soon as a seed is finished (`seed-N.jsonl` meanwhile), then
            `trial.json` and `trial.md`.
        seeds: Of the worlds.
        methods: What takes part.
        overwrite: Replace the tables even where they hold seeds or methods that are not asked for.
        console: Where progress is shown; the terminal if None.

    Raises:
        ConfigError: No seeds, or more than there are t values for.
        HcnrError: A method needs a package that is not installed.
        OutputError: `out` cannot be written to, holds a trial of other pairs, or tables that would
            be lost, or another process is at one of the seeds.
    """
    check_seeds(len(seeds))
    check_trl(one for method in methods for one in method.grid)
    console = console or Console()
    names = [method.name for method in methods]
    tables = Tables(prepared(out), "trial", environment.world, seeds, names, overwrite)
    tables.check()
    results = run_seeds(
        environment, tables.out, seeds, methods, environment.levels, "seed", console
    )
    table = TrialTable(environment.world, results, environment.levels)
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
        OutputError: There is no finished seed, they differ in world, methods or levels, or `out`
            cannot be written to.
    """
    results = finished_results(out)
    first = results[0]
    levels = next(iter(first.method_results.values())).selections
    table = TrialTable(first.world, results, list(levels))
    seeds = [one.seed for one in results]
    tables = Tables(prepared(out), "trial", first.world, seeds, list(first.method_results), True)
    tables.write(table.as_dict(), table.to_markdown())
    return table


def run_seeds(
    environment: Environment,
    out: Path,
    seeds: Sequence[int],
    methods: Sequence[Method],
    levels: Sequence[float],
    stem: str,
    console: Console,
) -> list[SeedResult]:
    """Results of every seed, each written to `STEM-N.json` as soon as it is there."""
    results = []
    with fixed_threads(_THREADS), quiet(), Bars(console) as bars:
        for seed in seeds:
            testbed = environment.open(seed, _trainings(bars))
            file = out / f"{stem}-{seed}.json"
            pair = pair_digest(testbed)
            key = _key(pair, methods, levels)
            result = read_result(file, key)
            if result is None:
                with open_journal(out / f"seed-{seed}.jsonl", pair) as journal:
                    result = _run_seed(
                        environment.world, testbed, key, methods, levels, journal, bars
                    )
                write_json(file, result.as_dict())
            results.append(result)
    return results


def _run_seed(
    world: str,
    testbed: TestBed,
    key: str,
    methods: Sequence[Method],
    levels: Sequence[float],
    journal: Journal,
    bars: Bars,
) -> SeedResult:
    start = time.perf_counter()
    runner = SeedRunner(testbed, journal, bars)
    references = runner.references()
    method_results = runner.run(methods, levels, references["tuned"]["validation"])
    facts = {
        "arena": testbed.facts,
        "versions": versions(),
        "seconds": time.perf_counter() - start,
    }
    return SeedResult(key, world, testbed.seed, references, method_results, facts)


def pair_digest(testbed: TestBed) -> str:
    """Digest of the checkpoints, the samples, the questions and the versions of a pair."""
    digest = hashlib.sha256()
    files = [*_weights(testbed.base), *_weights(testbed.tuned), testbed.honesty, testbed.task]
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    questions = {split: _questions(sets) for split, sets in testbed.question_sets.items()}
    about = [testbed.world, testbed.seed, testbed.refusal, questions, versions(), FORMAT]
    if math.isfinite(testbed.least_retention):
        about.append(testbed.least_retention)
    if testbed.bfloat16:
        about.append("bfloat16")
    constants = [fine_tuning.BATCH_SIZE, fine_tuning.LARGEST_NORM]
    digest.update(json.dumps([about, constants], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _questions(questions: QuestionSets) -> list[dict[str, list[Any]]]:
    """What decides the metrics of a split: of the honesty sets, then of the task sets."""
    return [
        {
            name: [[one.prompt, one.question, one.answerable, one.answers] for one in many]
            for name, many in sets.items()
        }
        for sets in (questions.honesty, questions.tasks)
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


def _key(pair: str, methods: Sequence[Method], levels: Sequence[float]) -> str:
    grids = {
        method.name: [candidate_key(one, method.samples) for one in method.grid]
        for method in methods
    }
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
