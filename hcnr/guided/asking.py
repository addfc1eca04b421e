"""Checks of single answers, each as soon as it is given."""

import os
from collections.abc import Sequence
from pathlib import Path

from hcnr.benchmarks.loading import load_sets
from hcnr.checkpoint import atomic_file, check_output
from hcnr.config import RestoreConfig
from hcnr.data.samples import load_samples
from hcnr.data.starter import STARTER
from hcnr.directories import check_outside
from hcnr.errors import DataError, OutputError
from hcnr.guided.parts import FEWEST_SAMPLES
from hcnr.guided.recipe import FILE, RunRecipe
from hcnr.models.pair import Pair
from hcnr.models.source import open_source
from hcnr.progress import Stages


def check_base(text: str) -> None:
    """Raise HcnrError unless it is a checkpoint."""
    open_source(Path(text).expanduser())


def check_tuned(base: str, text: str) -> None:
    """Raise HcnrError unless it is a checkpoint that belongs to `base` and differs from it."""
    Pair.open(Path(base).expanduser(), Path(text).expanduser(), RestoreConfig(), Stages())


def check_task(text: str) -> None:
    """Raise DataError unless it holds enough samples of a task."""
    if text == STARTER:
        raise DataError(
            "the starter set holds honesty samples, none of a task; name samples of what tuned was "
            "tuned for"
        )
    if (count := load_samples(text).available) < FEWEST_SAMPLES:
        raise DataError(
            f"{text} holds {count} samples, expected at least {FEWEST_SAMPLES}; add samples"
        )


def check_honesty(text: str) -> None:
    """Raise DataError unless it holds samples."""
    load_samples(text)


def check_questions(text: str) -> None:
    """Raise HcnrError unless it holds questions of both kinds."""
    for name, benchmark in load_sets([text], None, None, task=False).items():
        if len({question.answerable for question in benchmark.questions}) < 2:
            raise DataError(
                f"{name} has questions of one kind only, expected answerable and unanswerable ones"
            )


def check_out(text: str, inputs: Sequence[str], overwrite: bool) -> None:
    """Raise OutputError unless a run can be written there."""
    sources = [Path(path).expanduser() for path in inputs]
    directory = Path(text).expanduser()
    check_output(directory / "model", inputs=sources, overwrite=True)
    check_outside(directory, sources, "choose a directory outside of it")
    if os.path.lexists(directory) and not directory.is_dir():
        raise OutputError(f"{directory} is no directory; choose another name")
    if (directory / FILE).exists() and not overwrite:
        raise OutputError(
            f"{directory / FILE} exists already; run it with hcnr run --recipe, choose another "
            "directory, or pass --overwrite"
        )


def write_recipe(recipe: RunRecipe, file: Path) -> None:
    """Write a recipe, with the versions of now; directories above it are made."""
    from hcnr.versions import versions

    filled = recipe.model_copy(update={"versions": versions()})
    with atomic_file(file) as temporary:
        temporary.write_text(filled.to_yaml(), encoding="utf-8")
