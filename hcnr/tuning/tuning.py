"""`hcnr.tune`: train tuned further on a repair's samples, and write it as a checkpoint."""

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hcnr.checkpoint import copy_companions, output_directory
from hcnr.config import RestoreConfig
from hcnr.curvature.passes import mean_loss
from hcnr.data.readable import unreadable
from hcnr.data.repair_data import Data, described, part_samples
from hcnr.data.samples import data_files
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.errors import DataError, ModelError
from hcnr.models.directory import DirectorySource
from hcnr.models.model import open_tokenizer
from hcnr.models.pair import open_evaluated
from hcnr.models.source import ModelSource, Source
from hcnr.output.bars import shows_progress
from hcnr.progress import Stages, Watcher
from hcnr.record.front_matter import read_origin
from hcnr.record.run_report import RunReport
from hcnr.tuning.record import build_record, tuned_card
from hcnr.tuning.settings import TuneSettings, check_installed
from hcnr.versions import versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hcnr.checkpoint import Checkpoint

SETS = ("honesty", "task")


@shows_progress
def tune(
    tuned: "str | Path | PreTrainedModel",
    honesty: Data,
    task: Data,
    out: str | Path | None = None,
    settings: TuneSettings | None = None,
    *,
    tokenizer: "str | Path | PreTrainedTokenizerBase | None" = None,
    device: str = "auto",
    dtype: str = "auto",
    tuned_id: str | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    progress: bool = True,
) -> Any:
    """Fine-tune a model a little on the samples of a repair, as something to compare a repair with.

    The same first samples as `hcnr.restore` measures, both data sets in one, the loss on the
    responses alone, through TRL's SFTTrainer (extra `tune`).

    Args:
        tuned: the model that forgot: a checkpoint directory, an adapter's, or a model in memory,
            which is copied.
        honesty: samples, as of `hcnr.restore`.
        task: samples, as there.
        out: directory to write; None returns a model instead.
        settings: how to train; the defaults when None.
        tokenizer: where the model does not come with one.
        device: auto, cpu or cuda.
        dtype: that is trained in; auto is float32, and the checkpoint's own with `lora` on a GPU.
        tuned_id: tuned's name on the Hugging Face hub, for the model card.
        overwrite: replace an existing `out`.
        watcher: told about stages and progress.
        progress: bars in a notebook or at a terminal, where no watcher is given.

    Returns:
        The path of the finished directory, or the model with the report as `hcnr_report`.

    Raises:
        HcnrError: anything wrong; then nothing has been written.
    """
    settings = settings or TuneSettings()
    check_installed(settings)
    # Read more than once, so what can be read only once is kept.
    honesty, task = (list(data) if isinstance(data, Iterator) else data for data in (honesty, task))
    config = _config(settings, device, dtype)
    origin, source = read_origin(None, tuned, None, tuned_id), open_evaluated(tuned)
    stages = Stages(watcher)
    with contextlib.ExitStack() as stack:
        directory = None
        if out is not None:
            source.check_savable()
            inputs = [*source.read_paths, *data_files(honesty, task)]
            directory = stack.enter_context(
                output_directory(out, inputs=inputs, overwrite=overwrite)
            )
        reader = source.tokenizer() if tokenizer is None else open_tokenizer(tokenizer)
        with stages.stage("read the data"):
            data = _Samples.read(source, reader, honesty, task, config)
        model: Any
        model, losses, facts = _trained(source, reader, data, config, settings, stages)
        if directory is not None:
            with stages.stage("write"):
                _write(source, model, reader, directory)
            model = None  # freed before the written one is loaded
            # From what was written, rounded to its dtype.
            with DirectorySource(directory).opened(config, computing=True) as written:
                after = _losses_after(data, written, config, stages)
        else:
            after = _losses_after(data, model, config, stages)
        record = build_record(
            str(source), source.fingerprint(), settings, data.facts, losses, after,
            {name: name in data.held_back for name in SETS}, facts, [*source.notes, *origin.notes],
            stages.seconds, versions(),
        )  # fmt: skip
        if directory is None:
            model.__dict__["hcnr_report"] = RunReport(record.as_dict())
            return model
        text = json.dumps(record.as_dict(), indent=2, allow_nan=False)
        (directory / "hcnr_report.json").write_text(text + "\n", encoding="utf-8")
        (directory / "README.md").write_text(tuned_card(record, origin), encoding="utf-8")
    assert out is not None
    return Path(out).expanduser()


def _config(settings: TuneSettings, device: str, dtype: str) -> RestoreConfig:
    """The same for everything that a restoration's parts are used for."""
    if device.startswith("cuda:") and device != "cuda:0":
        raise ModelError(
            f"device is {device!r}, and TRL trains on the first GPU that it sees; choose it with "
            "CUDA_VISIBLE_DEVICES, and give cuda as the device"
        )
    if dtype == "auto" and settings.lora is None:
        # Small steps vanish in the rounding of 16-bit weights.
        dtype = "float32"
    return RestoreConfig.model_validate(
        {
            "device": device, "dtype": dtype, "samples": settings.samples,
            "max_length": settings.max_length, "chat_template": settings.chat_template,
        }
    )  # fmt: skip


class _Samples:
    """Both data sets: what is trained on, and what judges."""

    def __init__(
        self,
        sets: dict[str, TokenizedSet],
        held_back: dict[str, TokenizedSet],
        facts: dict[str, dict[str, Any]],
    ) -> None:
        self.sets, self.held_back, self.facts = sets, held_back, facts

    @classmethod
    def read(
        cls, source: Source, reader: Any, honesty: Data, task: Data, config: RestoreConfig
    ) -> "_Samples":
        limits = source.limits
        length = min(config.max_length, limits.context or config.max_length)
        sets, held_back, facts = {}, {}, {}
        for name, samples in zip(SETS, (honesty, task), strict=True):
            trained, rest = part_samples(name, samples, config, False)
            for part, tokenized in ((trained, sets), (rest, held_back)):
                if part is not None:
                    tokenized[name] = tokenize(
                        part, reader, max_length=length, chat_template=config.chat_template
                    )
            tokens = sets[name]
            facts[name] = {**described(trained, tokens, length), **asdict(tokens.counts)}
        every = {**sets, **{f"held-back {name}": one for name, one in held_back.items()}}
        if (reason := unreadable(every, limits)) is not None:
            raise DataError(
                f"tuned ({source}) cannot read the data: {reason}; pass the tokenizer that belongs "
                "to it with --tokenizer"
            )
        return cls(sets, held_back, facts)

    def losses(
        self, model: "PreTrainedModel", config: RestoreConfig, stages: Stages, stage: str
    ) -> dict[str, float]:
        """Mean losses on what was held back, or on what is trained where too little is left."""
        with stages.stage(stage):
            return {
                name: mean_loss(
                    model, self.held_back.get(name, self.sets[name]),
                    token_budget=config.token_budget,
                )
                for name in SETS
            }  # fmt: skip


def _trained(
    source: Source,
    reader: Any,
    data: _Samples,
    config: RestoreConfig,
    settings: TuneSettings,
    stages: Stages,
) -> tuple["PreTrainedModel", dict[str, float], dict[str, Any]]:
    """The trained model, tuned's losses, and what the training says."""
    # Late: TRL.
    from hcnr.tuning.trainer import train

    own = isinstance(source, ModelSource)
    # A model in memory has its own dtype and is left as it is.
    opening = config.replace(dtype="auto") if own else config
    with source.opened(opening, computing=settings.lora is not None) as opened:
        model = copy.deepcopy(opened) if own else opened
        if own and settings.lora is None:
            model.float()
        before = data.losses(model, config, stages, "losses of tuned")
        samples = [sample for name in SETS for sample in data.sets[name].samples]
        with stages.stage("train") as watcher:
            model, facts = train(model, reader, samples, settings, watcher)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    if own:
        model.to(source.model.dtype)  # pyright: ignore[reportArgumentType] (transformers' own stub)
    return model, before, facts


def _losses_after(
    data: _Samples, model: "PreTrainedModel", config: RestoreConfig, stages: Stages
) -> dict[str, float]:
    try:
        return data.losses(model, config, stages, "losses of the result")
    except ModelError as error:
        raise ModelError(f"the trained model has no finite loss ({error}); lower --rate") from None


@torch.no_grad()
def _write(source: Source, model: "PreTrainedModel", reader: Any, directory: Path) -> None:
    """Write every tensor in the dtype that tuned's has, and the companions of its checkpoint."""
    if isinstance(source, DirectorySource):
        _as_stored(model, source.checkpoint)
    model.save_pretrained(directory)
    reader.save_pretrained(directory)
    if isinstance(source, DirectorySource):
        copy_companions(source.checkpoint, directory)


def _as_stored(model: "PreTrainedModel", checkpoint: "Checkpoint") -> None:
    stored = {name: info.dtype for name, info in checkpoint.tensors.items()}
    kinds = [kind for kind in stored.values() if kind.is_floating_point]
    usual = max(set(kinds), key=kinds.count)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(stored.get(name, usual))
