"""The demo: lose honesty, repair it in every way the tool knows, and print who did what."""

from pathlib import Path

from rich.console import Console

from hcnr.checkpoint import check_output
from hcnr.demo.laboratory import open_lab, quiet
from hcnr.demo.recipe import Recipe
from hcnr.demo.seeds import MOST_SEEDS, SeedsTable
from hcnr.demo.settings import front_table
from hcnr.demo.table import DemoTable
from hcnr.demo.telling import print_ending, training_bars, write_results
from hcnr.demo.training import fixed_threads
from hcnr.demo.trial import RESTORED, DemoTrial
from hcnr.directories import make_directory
from hcnr.errors import ConfigError
from hcnr.output import say
from hcnr.output.bars import Bars


def run_demo(
    out_dir: str | Path,
    quick: bool = False,
    seed: int = 0,
    console: Console | None = None,
) -> DemoTable:
    """Train (the first time), break, repair, evaluate, sweep, print and write everything.

    Every repair is `hcnr.restore` on checkpoint directories, exactly as a user would call it.

    Args:
        out_dir: gets `restored/` (the checkpoint of the sweep's choice with evaluation, probes,
            sweep and `report.html`), `demo.json` (all numbers and settings) and `demo.md` (the
            table for a README).
        quick: use the small world of continuous integration.
        seed: seed of the world and of its trainings.
        console: where the progress and the tables are printed; the terminal if None.

    Returns:
        The table.

    Raises:
        OutputError: `out_dir` is no directory that can be written to; nothing was trained then.
    """
    console = console or Console()
    recipe = Recipe.quick(seed) if quick else Recipe(seed=seed)
    out = _prepared(out_dir)
    with fixed_threads(recipe.threads), quiet(), Bars(console, transient=True) as bars:
        lab = open_lab(recipe, training_bars(bars, console))
        trial = DemoTrial(lab, out, bars)
        table, swept = trial.run()
    write_results(out, table.as_dict(), table.to_markdown())
    console.print(table.to_rich())
    recommendation = table.facts["recommendation"]
    console.print(front_table(swept, recommendation["word"]))
    say(console, table.facts["probe"])
    print_ending(console, lab.directory, trial.restored, recommendation)
    return table


def run_seeds(
    out_dir: str | Path,
    seeds: int,
    quick: bool = False,
    seed: int = 0,
    console: Console | None = None,
) -> SeedsTable:
    """Run the demo in several worlds and print means with intervals over them.

    Args:
        out_dir: gets `seed-N/`, what `run_demo` writes, for every seed; `demo.json` and `demo.md`
            are about all of them.
        seeds: number of worlds, with the seeds `seed`, `seed + 1` and so on.
        quick: use the small worlds of continuous integration.
        seed: seed of the first world.
        console: where the progress and the tables are printed; the terminal if None.

    Returns:
        The table of means.

    Raises:
        ConfigError: there are too few or too many seeds for an interval.
        OutputError: `out_dir` is no directory that can be written to; nothing was trained then.
    """
    if not 2 <= seeds <= MOST_SEEDS:
        raise ConfigError(
            f"the number of seeds is {seeds}, expected 2 to {MOST_SEEDS} for an interval over "
            "them; choose another --seeds"
        )
    console = console or Console()
    directories = {s: Path(out_dir).expanduser() / f"seed-{s}" for s in range(seed, seed + seeds)}
    for directory in directories.values():
        _prepared(directory)
    tables = {s: run_demo(directory, quick, s, console) for s, directory in directories.items()}
    table = SeedsTable(tables)
    write_results(Path(out_dir).expanduser(), table.as_dict(), table.to_markdown())
    console.print(table.to_rich())
    return table


def _prepared(out_dir: str | Path) -> Path:
    """The directory, made and known to take the output."""
    out = make_directory(out_dir)
    check_output(out / RESTORED, overwrite=True)
    return out
