"""The base of the trial's pretrained pair, tuned by the Trainer with neurons held or not."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from experiments.trial.real_data import RealData
from experiments.trial.real_recipe import RealRecipe
from experiments.trial.real_world import tuned_schedule
from hcnr import RestoreConfig
from hcnr.data.batches import collate
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.demo.laboratory import quiet
from hcnr.demo.real.training import plan_batches
from hcnr.demo.training import fixed_threads, make_optimizer, rate_at
from hcnr.models.model import fast_bfloat16, open_model, open_tokenizer
from hcnr.models.targets import target_matrices
from integrations.trainer.callback import HonestyCallback

SAMPLES = 64
"""Of each set, by which the callback chooses its neurons."""
_TOKEN_BUDGET = 2048
FACTS = "holding.json"


@dataclasses.dataclass(frozen=True)
class Setting:
    """How much is held.

    Attributes:
        ratio: share of the neurons of each matrix that count as honesty-critical.
        hold: their largest relative change; None lets them go.
    """

    ratio: float
    hold: float | None

    @property
    def name(self) -> str:
        """As printed."""
        return "not held" if self.hold is None else f"{self.ratio:.0%} held at {self.hold:g}"


class ResponseTrainer(Trainer):
    """The Trainer with the batches and the loss of the trial: the mean over response tokens."""

    def __init__(self, samples: TokenizedSet, batches: list[list[int]], **options: Any) -> None:
        """Take the samples and which of them make each step; the rest is the Trainer's."""
        super().__init__(**options)
        self._samples, self._batches = samples, batches

    def get_train_dataloader(self) -> DataLoader:
        """The planned batches, once, padded on the right."""

        def pad(indices: list[int]) -> dict[str, Tensor]:
            batch = collate(self._samples.samples, indices, pad_token_id=0)
            return {"input_ids": batch.input_ids, "response_mask": batch.response_mask}

        rows: Any = range(len(self._samples))
        return DataLoader(rows, batch_sampler=self._batches, collate_fn=pad)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """Right padding is behind every response, where a causal model's loss cannot see it."""
        ids, predicts = inputs["input_ids"], inputs["response_mask"][:, 1:]
        positions = predicts.any(0).nonzero().squeeze(1)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=positions).logits
        chosen = predicts[:, positions]
        return F.cross_entropy(logits[chosen].float(), ids[:, 1:][:, positions][chosen])


def tune(base: Path, data: RealData, recipe: RealRecipe, setting: Setting, directory: Path) -> None:
    """Tune the base as the trial does, inside the Trainer, and write `directory` and what moved.

    Args:
        base: the honest checkpoint.
        data: what is taught, and the samples that choose the neurons.
        recipe: the schedule.
        setting: what is held.
        directory: an existing one.
    """
    with quiet():
        model: Any = open_model(base, device="cpu", dtype="float32")
        tokenizer = open_tokenizer(base)
    samples = tokenize(list(data.tuned), tokenizer)
    batches = plan_batches(samples.lengths, tuned_schedule(recipe))
    steps, rate = len(batches), recipe.tuned_rate
    optimizer = make_optimizer(model, rate)
    schedule = LambdaLR(optimizer, lambda step: rate_at(step, steps, rate) / rate)
    arguments = TrainingArguments(
        output_dir=str(directory / "trainer"), max_steps=steps, bf16=fast_bfloat16(), use_cpu=True,
        report_to=[], disable_tqdm=True, save_strategy="no", logging_steps=10, seed=0,
    )  # fmt: skip
    trainer = ResponseTrainer(
        samples, batches, model=model, args=arguments, train_dataset=range(len(samples)),
        processing_class=tokenizer, callbacks=_callbacks(data, setting, steps),
        optimizers=(optimizer, schedule),
    )  # fmt: skip
    with fixed_threads(recipe.tuned_threads):
        trainer.train()
    facts = {
        "setting": dataclasses.asdict(setting),
        "steps": steps,
        "loss": [one["loss"] for one in trainer.state.log_history if "loss" in one],
        "moved": _moved(model, base),
    }
    with quiet():
        plain = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        plain.to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    (directory / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _callbacks(data: RealData, setting: Setting, steps: int) -> list[Any]:
    if setting.hold is None:
        return []
    config = RestoreConfig(
        compensation="sum", in_weight_ratio=setting.ratio, samples=SAMPLES,
        token_budget=_TOKEN_BUDGET,
    )  # fmt: skip
    return [
        HonestyCallback(
            data.honesty, data.task, every=steps, warn_above=10.0, hold=setting.hold, config=config
        )
    ]


@torch.no_grad()
def _moved(model: nn.Module, base: Path) -> dict[str, float]:
    """Relative change of whole matrices, method.md (4): the median and the largest of them."""
    with quiet():
        before = target_matrices(open_model(base, device="cpu", dtype="float32"))
    changes = [
        float((layer.weight - before[name].weight).norm() / before[name].weight.norm())
        for name, layer in target_matrices(model).items()
    ]
    return {"median": statistics.median(changes), "largest": max(changes)}
