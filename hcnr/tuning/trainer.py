"""TRL's SFTTrainer on the tool's own tokens: quiet, seeded, offline, and without any file left.

Imports TRL; import this module late.
"""

# pyright: reportMissingImports=false, reportCallIssue=false
# The extra `tune` brings TRL; types are checked without it.

import contextlib
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import datasets
import numpy as np
import torch
from huggingface_hub import constants
from transformers import PrinterCallback, TrainerCallback, set_seed
from transformers.utils import logging

from hcnr.data.tokens import TokenizedSample
from hcnr.errors import ModelError
from hcnr.models.device_memory import out_of_memory
from hcnr.progress import Watcher
from hcnr.scratch import scratch_directory
from hcnr.tuning.settings import TuneSettings

with warnings.catch_warnings():
    # About names of settings between its releases and those of transformers.
    warnings.simplefilter("ignore")
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WARM_UP = 0.1
"""Share of the steps in which the rate rises; then it falls as a cosine."""
UNLABELLED = -100


class _Telling(TrainerCallback):
    """Tells a watcher about every step."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._watcher.advance(state.global_step, state.max_steps)


def train(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    samples: Sequence[TokenizedSample],
    settings: TuneSettings,
    watcher: Watcher,
) -> tuple["PreTrainedModel", dict[str, Any]]:
    """Fine-tune a model on samples whose responses carry the loss.

    AdamW without weight decay, a warm-up and a cosine, gradients clipped to norm 1. The same model,
    samples and settings give the same weights on the same machine.

    Args:
        model: is changed.
        tokenizer: pads.
        samples: with the place where the response begins.
        settings: how.
        watcher: told about the steps.

    Returns:
        The trained model, an adapter merged into it; and `steps` and `loss`, the mean over them.

    Raises:
        ModelError: it does not fit into memory, or the loss is not finite.
    """
    rows = datasets.Dataset.from_list([as_row(sample) for sample in samples])
    with _alone(model.device, settings.seed), scratch_directory() as directory:
        try:
            trainer = _trainer(
                model, tokenizer, rows, settings, str(directory), max(map(len, samples))
            )
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(_Telling(watcher))
            with torch.enable_grad():
                result = trainer.train()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise ModelError(
                "the training does not fit into memory; use a smaller --batch-size or "
                "--max-length, or train an adapter (--lora)"
            ) from None
        trained = trainer.model
        if settings.lora is not None:
            trained = trained.merge_and_unload()
    if not np.isfinite(result.training_loss):
        raise ModelError(
            f"the training's loss is {result.training_loss}, expected a number; lower --rate"
        )
    facts = {"steps": int(result.global_step), "loss": float(result.training_loss)}
    return trained.eval(), facts


def _trainer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: Any,
    settings: TuneSettings,
    directory: str,
    longest: int,
) -> Any:
    on_gpu = model.device.type == "cuda"
    arguments = SFTConfig(
        output_dir=directory,
        learning_rate=settings.learning_rate,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        lr_scheduler_type="cosine",
        # Not the share: of few steps it would take the first one away, whose rate is 0 then.
        warmup_steps=int(WARM_UP * len(rows) / settings.batch_size * settings.epochs),
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=longest,
        completion_only_loss=True,
        # The rows hold token ids and labels already.
        dataset_kwargs={"skip_prepare_dataset": True},
        seed=settings.seed,
        use_cpu=not on_gpu,
        bf16=on_gpu and torch.cuda.is_bf16_supported(),
        gradient_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    # One device, that of the model: others that are visible stay out of it.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=_adapter(settings),
    )


def as_row(sample: TokenizedSample) -> dict[str, list[int]]:
    """Token ids, and labels that leave the prompt out."""
    start, ids = sample.response_start, list(sample.input_ids)
    return {"input_ids": ids, "labels": [UNLABELLED] * start + ids[start:]}


def _adapter(settings: TuneSettings) -> Any:
    if settings.lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora,
        lora_alpha=2 * settings.lora,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


@contextlib.contextmanager
def _alone(device: torch.device, seed: int) -> Iterator[None]:
    """Keep TRL from bars, from the hub (it reports every training there) and from others' seeds."""
    bars, offline = datasets.are_progress_bars_disabled(), constants.HF_HUB_OFFLINE
    own, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    python, numpy = random.getstate(), np.random.get_state()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    cast(Any, constants).HF_HUB_OFFLINE = True
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            set_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        cast(Any, constants).HF_HUB_OFFLINE = offline
        logging.set_verbosity(level)
        if own:
            logging.enable_progress_bar()
        if not bars:
            datasets.enable_progress_bars()
