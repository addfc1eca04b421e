"""The baseline that users would try first: a few epochs on the same samples.

Plain training of every weight, on hcnr's own tokens and loss, so that it learns from exactly what a
repair measures.
"""

import copy
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch

from hcnr.curvature.passes import sample_losses
from hcnr.data.batches import collate
from hcnr.data.tokens import TokenizedSample
from hcnr.models.model import eval_mode

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BATCH_SIZE = 16
"""Samples of a step: 8 steps an epoch on 128 samples, which tiny learning rates need."""
LARGEST_NORM = 1.0
"""Gradients are clipped to this norm, as in the trainings of the lab."""


class Snapshot(NamedTuple):
    """The model after some epochs.

    Attributes:
        epochs: How many.
        model: Trained further by the next epoch; in inference mode.
        seconds: Of the processor, to come here, without what was done with earlier snapshots.
    """

    epochs: int
    model: "LlamaForCausalLM"
    seconds: float


def fine_tune(
    model: "LlamaForCausalLM",
    samples: Collection[TokenizedSample],
    *,
    rate: float,
    epochs: Collection[int],
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Snapshot]:
    """Train a copy of a model and show it after each of some numbers of epochs.

    AdamW without weight decay at a constant rate, so that fewer epochs are the beginning of more.
    Every epoch sees all samples in an order of its own; a sample's loss is the mean over its
    response tokens, a step's the mean over its samples.

    Args:
        model: Stays as it is.
        samples: What to train on.
        rate: Learning rate.
        epochs: After which epochs to show the model; trains to the last of them.
        seed: Decides the orders, and nothing else is random.
        batch_size: Samples of a step.

    Yields:
        The same model further on, by rising number of epochs.
    """
    data = list(samples)
    start, paused = time.process_time(), 0.0
    trained = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    pad = trained.config.pad_token_id
    for epoch in range(1, max(epochs, default=0) + 1):
        order = torch.randperm(len(data), generator=generator).tolist()
        # Dropout off: what is trained is the function that is measured and evaluated.
        with eval_mode(trained), torch.enable_grad():
            for first in range(0, len(order), batch_size):
                batch = collate(
                    data,
                    order[first : first + batch_size],
                    pad_token_id=pad if isinstance(pad, int) else 0,
                )
                sample_losses(trained, batch).mean().backward()
                torch.nn.utils.clip_grad_norm_(trained.parameters(), LARGEST_NORM)
                optimizer.step()
                optimizer.zero_grad()
        if epoch in epochs:
            shown = time.process_time()
            yield Snapshot(epoch, trained.eval(), shown - start - paused)
            paused += time.process_time() - shown
