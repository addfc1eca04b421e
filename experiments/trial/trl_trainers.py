"""DPO and ORPO of TRL on the tool's own tokens: quiet, seeded, offline, and without any file left.

Imports TRL; import this module late.
"""

# pyright: reportMissingImports=false, reportCallIssue=false
# The extra `trial` brings TRL; types are checked without it.

import contextlib
import copy
import random
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import datasets
import numpy as np
import torch
from huggingface_hub import constants
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer

from experiments.trial.candidate_specs import Preferred
from hcnr.data.tokens import TokenizedSample
from hcnr.demo.laboratory import quiet
from hcnr.demo.real.training import plan_epoch
from hcnr.demo.training import fixed_threads
from hcnr.models.model import fast_bfloat16

with warnings.catch_warnings():
    # ORPO moved to TRL's experiments, which says so at every import.
    warnings.simplefilter("ignore")
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

BATCH_SIZE = 8
"""Pairs of a step, which are sixteen sequences."""
_WARM_UP = 0.1
_THREADS = 1


class _InOrder(Trainer):
    """Takes the rows as they stand."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(cast(Any, self.train_dataset))


class _Dpo(_InOrder, DPOTrainer):
    """DPO on rows that hold token ids already."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class _Orpo(_InOrder, ORPOTrainer):
    """ORPO on rows that hold token ids already.

    Its supervised term is over prompt and response, as in its authors' code.
    """

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, Any]:
        row: dict[str, Any] = {
            "prompt_input_ids": feature["prompt_ids"],
            "prompt_attention_mask": [1] * len(feature["prompt_ids"]),
        }
        for kind in ("chosen", "rejected"):
            response = feature[f"{kind}_ids"]
            ids = feature["prompt_ids"] + response
            row[f"{kind}_input_ids"] = ids
            row[f"{kind}_attention_mask"] = [1] * len(ids)
            row[f"{kind}_labels"] = [-100] * len(feature["prompt_ids"]) + response
        return row


def train_preferences(
    model: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    chosen: Sequence[TokenizedSample],
    rejected: Sequence[TokenizedSample],
    spec: Preferred,
    seed: int,
) -> dict[str, Tensor]:
    """Train a model on pairs of responses.

    AdamW without weight decay, a short warm-up and a cosine, gradients clipped to norm 1.

    Args:
        model: float32, on the CPU; spoilt by the training, and DPO's reference before it.
        tokenizer: may be changed.
        chosen: prompts with the responses to prefer.
        rejected: the same prompts with the other responses.
        spec: loss and settings.
        seed: decides the order of the pairs.

    Returns:
        The trained weights.
    """
    lengths = [max(map(len, pair)) for pair in zip(chosen, rejected, strict=True)]
    order = random.Random(f"hcnr-trial-{spec.by}-{seed}")
    epochs = [plan_epoch(lengths, BATCH_SIZE, order) for _ in range(spec.epochs)]
    # All epochs are one, so that the order is ours: like lengths together, as in other trainings.
    indices = [index for epoch in epochs for batch in epoch for index in batch]
    rows = datasets.Dataset.from_list([_row(chosen[i], rejected[i]) for i in indices])
    with _alone(), fixed_threads(_THREADS), tempfile.TemporaryDirectory() as directory:
        settings: dict[str, Any] = {
            "output_dir": directory,
            "learning_rate": spec.rate,
            "beta": spec.beta,
            "num_train_epochs": 1,
            "per_device_train_batch_size": BATCH_SIZE,
            "lr_scheduler_type": "cosine",
            "warmup_steps": _WARM_UP,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": max(lengths),
            "seed": seed,
            "use_cpu": True,
            "bf16": fast_bfloat16(),
            "gradient_checkpointing": False,
            "dataloader_pin_memory": False,
            "report_to": "none",
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
        }
        common = {"model": model, "train_dataset": rows, "processing_class": tokenizer}
        if spec.by == "dpo":
            reference = copy.deepcopy(model)
            trainer: Any = _Dpo(ref_model=reference, args=DPOConfig(**settings), **common)
        else:
            trainer = _Orpo(args=ORPOConfig(**settings, remove_unused_columns=False), **common)
        trainer.remove_callback(PrinterCallback)
        with torch.enable_grad():
            trainer.train()
        return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _row(good: TokenizedSample, bad: TokenizedSample) -> dict[str, Any]:
    return {
        # TRL looks at the texts to tell chats from plain prompts, and at nothing else.
        **dict.fromkeys(("prompt", "chosen", "rejected"), ""),
        "prompt_ids": list(good.input_ids[: good.response_start]),
        "chosen_ids": list(good.input_ids[good.response_start :]),
        "rejected_ids": list(bad.input_ids[bad.response_start :]),
    }


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep TRL from bars, from the hub (it reports every training there) and from our seeds.

    Its warnings are about the names of settings between its releases and those of transformers.
    """
    bars, offline = datasets.are_progress_bars_disabled(), constants.HF_HUB_OFFLINE
    python, numpy = random.getstate(), np.random.get_state()
    datasets.disable_progress_bars()
    constants.HF_HUB_OFFLINE = True
    try:
        with quiet(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        constants.HF_HUB_OFFLINE = offline
        if not bars:
            datasets.enable_progress_bars()
