"""A ready text world: a pair trained on real questions, once, and then cached."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from experiments.trial.text_data import MEASURED_SETS, REFUSAL, TextData, draw_data
from experiments.trial.text_recipe import TextRecipe
from experiments.trial.text_tokenizer import train_tokenizer
from experiments.trial.text_training import (
    LONGEST,
    train_text_base,
    train_text_tuned,
    training_device,
)
from hcnr.benchmarks.sources import SourceReader
from hcnr.cache import cached_directory
from hcnr.data.samples import Sample
from hcnr.demo.laboratory import Stage, quiet, save_model, timed

_TRAINING = "training.json"


@dataclasses.dataclass(frozen=True)
class TextWorld:
    """The questions of a recipe with the two checkpoints and the two sample files.

    Attributes:
        directory: Holds `base/`, `tuned/`, `honesty.jsonl`, `task.jsonl` and `text.json`.
        recipe: What it was made from.
        data: The questions.
        tokenizer: The tokenizer that both checkpoints carry.
        facts: The content of `text.json`: recipe, data files, counts, parameters, seconds, losses.
    """

    directory: Path
    recipe: TextRecipe
    data: TextData
    tokenizer: PreTrainedTokenizerFast
    facts: dict[str, Any]


def open_text_world(
    data_root: str | os.PathLike[str] | None,
    recipe: TextRecipe,
    stage: Stage | None = None,
) -> TextWorld:
    """Opens the text world of a recipe; the first time, this trains both of its models.

    Args:
        data_root: Folder with the authors' files; `$HCNR_DATA_ROOT` if None.
        recipe: Questions, models and schedules.
        stage: Told when a training starts; silent if None.

    Raises:
        DataError: There is no data root, or a file is missing or not the known one.
        ConfigError: The recipe needs a GPU to be trained, and there is none.
    """
    reader = SourceReader(data_root)
    data = draw_data(reader, recipe)
    directory = cached_directory(
        recipe.key(reader.files),
        lambda target: make_text_world(target, recipe, data, reader.files, stage),
    )
    with quiet():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory / "base")
    facts = json.loads((directory / "text.json").read_text(encoding="utf-8"))
    return TextWorld(directory, recipe, data, tokenizer, facts)


def make_text_world(
    directory: Path,
    recipe: TextRecipe,
    data: TextData,
    files: dict[str, str],
    stage: Stage | None = None,
) -> None:
    """Trains base and tuned and writes everything a `TextWorld` holds into a directory.

    The base is cached by itself, for recipes that only fine-tune it otherwise.

    Args:
        directory: Where to write.
        recipe: Models and schedules.
        data: Questions.
        files: SHA-256 of each data file by its path, for the record.
        stage: Told when a training starts; silent if None.
    """
    device = training_device(recipe)

    def make_base(target: Path) -> None:
        tokenizer = train_tokenizer(data.base, recipe.vocabulary, LONGEST)
        figures: dict[str, float] = {}
        model = train_text_base(recipe, tokenizer, data.base, timed("base", figures, stage))
        save_model(model, tokenizer, target / "base")
        (target / _TRAINING).write_text(json.dumps(figures), encoding="utf-8")

    trained = cached_directory(recipe.base_key(files), make_base)
    shutil.copytree(trained / "base", directory / "base")
    figures: dict[str, float] = json.loads((trained / _TRAINING).read_text(encoding="utf-8"))
    with quiet():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory / "base")
        model = LlamaForCausalLM.from_pretrained(directory / "base", dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM)
    train_text_tuned(recipe, tokenizer, model, data.tuned, timed("tuned", figures, stage))
    save_model(model, tokenizer, directory / "tuned")
    for name, samples in (("honesty", data.measured), ("task", data.measured_task)):
        _write_samples(directory / f"{name}.jsonl", samples)
    facts = {
        "recipe": dataclasses.asdict(recipe),
        "key": recipe.key(files),
        "files": files,
        "refusal": REFUSAL,
        "counts": data.counts,
        "measured_sets": list(MEASURED_SETS),
        "parameters": sum(one.numel() for one in model.parameters()),
        "device": device.type,
        "torch": str(torch.__version__),
        "training": figures,
    }
    (directory / "text.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _write_samples(path: Path, samples: Iterable[Sample]) -> None:
    lines = (json.dumps(one.record(), ensure_ascii=False) + "\n" for one in samples)
    path.write_text("".join(lines), encoding="utf-8")
