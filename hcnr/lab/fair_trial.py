"""The fair trial: every way of repairing on the same pairs, over several seeds."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from hcnr.checkpoint import atomic_file
from hcnr.errors import ConfigError, OutputError
from hcnr.evaluate.sources import SourceReader
from hcnr.lab import fine_tuning
from hcnr.lab.arena import Arena, open_synthetic, open_text
from hcnr.lab.choosing import LEVELS
from hcnr.lab.journal import Journal
from hcnr.lab.laboratory import quiet
from hcnr.lab.making import key_of
from hcnr.lab.referee import Referee
from hcnr.lab.seed_result import SeedResult
from hcnr.lab.seeds import MOST_SEEDS
from hcnr.lab.text_recipe import TextRecipe
from hcnr.lab.training import Progress, fixed_threads
from hcnr.lab.trial_table import TrialTable
from hcnr.lab.ways import WAYS, Way
from hcnr.report.summary import versions
from hcnr.report.terminal import Bars

World = Literal["synthetic", "text", "text-mild"]
WORLDS: tuple[World, ...] = ("synthetic", "text", "text-mild")
# Raised whenever the making, judging or choosing of candidates changes what a trial yields.
FORMAT = 1
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
    """

    world: str
    open: OpenArena


def open_course(world: str, *, data_root: str | Path | None = None, quick: bool = False) -> Course:
    """The worlds that a trial can be held in; trains nothing yet.

    Args:
        world: One of `WORLDS`; `text-mild` is `text` with a fine-tuning that costs less honesty.
        data_root: Folder with the authors' files, for `text` and `text-mild`; `$HCNR_DATA_ROOT` if
            None.
        quick: Take the smaller synthetic world.

    Raises:
        ConfigError: There is no such world, or none that is quick.
        DataError: The text world has no data root.
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
            "the text world has no quick form, only the synthetic one has; leave --quick out"
        )
    # Asked here, so that a missing folder is known before anything is made.
    SourceReader(data_root)
    recipe = TextRecipe.mild() if world == "text-mild" else TextRecipe()
    return Course(world, lambda seed, stage: open_text(data_root, seed, recipe=recipe, stage=stage))


def run_trial(
    course: Course,
    out: str | Path,
    seeds: Sequence[int],
    *,
    ways: Sequence[Way] = WAYS,
    console: Console | None = None,
) -> TrialTable:
    """Hold the trial seed by seed and write the tables.

    Settings are chosen on the validation questions of each seed, then judged once on the evaluated
    ones. A finished seed of the same pair, grid and versions is read, an unfinished one goes on.

    Args:
        course: Where.
        out: Gets `seed-N.json` as soon as a seed is finished (`seed-N.jsonl` meanwhile), then
            `trial.json` and `trial.md`.
        seeds: Of the worlds.
        ways: What takes part.
        console: Where progress is shown; the terminal if None.

    Raises:
        ConfigError: No seeds, or more than there are t values for.
        OutputError: `out` cannot be written to, or holds a trial of other pairs.
    """
    check_seeds(len(seeds))
    place = prepared(out)
    results = run_seeds(course, place, seeds, ways, LEVELS, "seed", console or Console())
    table = TrialTable(course.world, results, LEVELS)
    write(place, "trial", table.as_dict(), table.to_markdown())
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
            key = _key(arena, ways, levels)
            found = _finished(file, key)
            if found is None:
                journal = Journal(out / f"seed-{seed}.jsonl", pair_digest(arena))
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
    about = [arena.world, arena.seed, arena.facts.get("counts"), versions(), FORMAT]
    constants = [fine_tuning.BATCH_SIZE, fine_tuning.LARGEST_NORM]
    digest.update(json.dumps([about, constants], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def check_seeds(count: int) -> None:
    """Refuse a number of seeds that no interval can be given for.

    Raises:
        ConfigError: It is below 1 or above `MOST_SEEDS`.
    """
    if not 1 <= count <= MOST_SEEDS:
        raise ConfigError(
            f"the number of seeds is {count}, expected 1 to {MOST_SEEDS}; choose another --seeds"
        )


def prepared(out: str | Path) -> Path:
    """The directory of the output, made and known to take files.

    Raises:
        OutputError: It does not.
    """
    place = Path(out)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with atomic_file(place / "hcnr_trial") as probe:
            probe.write_text("", encoding="utf-8")
        (place / "hcnr_trial").unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"the trial cannot write to {place} ({reason}); choose another --out"
        ) from None
    return place


def write(out: Path, stem: str, facts: dict[str, Any], markdown: str) -> None:
    """Write `STEM.json` and `STEM.md`."""
    write_json(out / f"{stem}.json", facts)
    with atomic_file(out / f"{stem}.md") as temporary:
        temporary.write_text(markdown, encoding="utf-8")


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write a JSON file whole."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _key(arena: Arena, ways: Sequence[Way], levels: Sequence[float]) -> str:
    grids = {way.name: [key_of(one, way.samples) for one in way.grid] for way in ways}
    text = json.dumps([pair_digest(arena), list(grids.items()), list(levels)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finished(file: Path, key: str) -> SeedResult | None:
    """The result in a file, if it is of this very trial."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["key"] == key:
            return SeedResult.from_dict(found)
    return None


def _weights(checkpoint: Path) -> Iterator[Path]:
    yield from sorted(checkpoint.glob("*.safetensors"))


def _trainings(bars: Bars) -> Callable[[str], Progress]:
    """A bar for each training, which happens the first time only."""

    def begin(model: str) -> Progress:
        bars.begin(f"train {model} (the first time only; minutes)")
        return lambda done, total, loss: bars.advance(done, total)

    return begin
