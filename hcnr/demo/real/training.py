"""One training loop for every model of a trial: resumable at any step, by the tool's token rule."""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hcnr.checkpoint import atomic_file
from hcnr.data.batches import collate
from hcnr.data.tokens import TokenizedSet
from hcnr.demo.training import Progress, fixed_threads, make_optimizer, rate_at

# Batches that are filled from one stretch of the shuffled samples, sorted by length.
_STRETCH = 24
# Steps between two saved states; one takes a second to write, a step several to compute.
_SAVE_EVERY = 20


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the samples.
        batch: samples of a step.
        rate: peak learning rate of a short warm-up times a cosine.
        order: seeds the order of the batches.
        threads: CPU threads, fixed because sums depend on their number.
    """

    epochs: int
    batch: int
    rate: float
    order: str
    threads: int


def plan_epoch(lengths: Sequence[int], size: int, order: random.Random) -> Iterator[list[int]]:
    """Batches of one pass: every sample once, in a random order, like lengths together.

    Samples are shuffled, sorted by length within stretches of some batches, and the batches of
    a stretch are shuffled again.
    """
    indices = list(range(len(lengths)))
    order.shuffle(indices)
    for start in range(0, len(indices), size * _STRETCH):
        stretch = sorted(indices[start : start + size * _STRETCH], key=lengths.__getitem__)
        batches = [stretch[i : i + size] for i in range(0, len(stretch), size)]
        order.shuffle(batches)
        yield from batches


def plan_batches(lengths: Sequence[int], schedule: Schedule) -> list[list[int]]:
    """The samples of every step of a training."""
    order = random.Random(schedule.order)
    epochs = (plan_epoch(lengths, schedule.batch, order) for _ in range(schedule.epochs))
    return [batch for epoch in epochs for batch in epoch]


def train(
    model: Any,
    data: TokenizedSet,
    schedule: Schedule,
    *,
    pad: int,
    device: torch.device | str = "cpu",
    bfloat16: bool = False,
    state: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Train a causal language model in place: AdamW on the mean loss of a batch's response tokens.

    Padding stands on the right, where a causal model's loss cannot see it: no mask is needed.

    Args:
        model: float32; on the CPU and in inference mode at the end.
        data: tokenised samples.
        schedule: of the steps.
        pad: token to pad with.
        device: where to train.
        bfloat16: whether products are computed in bfloat16; weights stay float32.
        state: file that a stopped training goes on from, removed at the end; None keeps none.
        progress: called after each step.
    """
    batches = plan_batches(data.lengths, schedule)
    nn.Module.to(model, device).train()
    optimizer = make_optimizer(model, schedule.rate)
    done = 0
    if state is not None and state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["step"]
    with fixed_threads(schedule.threads):
        for step in range(done, len(batches)):
            optimizer.param_groups[0]["lr"] = rate_at(step, len(batches), schedule.rate)
            batch = collate(data.samples, batches[step], pad_token_id=pad).to(device)
            predicts = batch.response_mask[:, 1:]
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
                hidden = model.model(
                    input_ids=batch.input_ids[:, :-1], use_cache=False
                ).last_hidden_state
                logits = model.lm_head(hidden[predicts])
            loss = F.cross_entropy(logits.float(), batch.input_ids[:, 1:][predicts])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if progress is not None:
                progress(step + 1, len(batches), float(loss.detach()))
            if state is not None and (step + 1) % _SAVE_EVERY == 0 and step + 1 < len(batches):
                _save(state, step + 1, model, optimizer)
    if state is not None:
        state.unlink(missing_ok=True)
    nn.Module.to(model, "cpu").eval()


def _save(path: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    content = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        torch.save(content, temporary)
