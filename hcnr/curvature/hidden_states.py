"""Hidden states of prompts: the last token after every transformer block."""

import inspect
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hcnr.curvature.passes import Attempt, Passes, Progress
from hcnr.data.batches import Batch
from hcnr.data.readable import unreadable
from hcnr.data.tokens import TokenizedSet
from hcnr.errors import ModelError
from hcnr.models.limits import Limits
from hcnr.models.targets import transformer_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def last_token_states(
    model: "PreTrainedModel",
    prompts: TokenizedSet,
    *,
    token_budget: int,
    progress: Progress | None = None,
) -> Tensor:
    """Hidden state of each prompt's last token after every transformer block.

    Hooks keep that one token per block, so memory is one micro-batch plus the result; no logits
    are formed. The last block's state is taken before the model's final normalisation.

    Args:
        model: a causal language model; unchanged afterwards.
        prompts: n token sequences, taken whole.
        token_budget: padded tokens of one micro-batch; halved when memory runs out.
        progress: called after each micro-batch.

    Returns:
        float32 `[n, blocks, hidden]` on the CPU.

    Raises:
        ModelError: the model has no list of blocks, or too small a vocabulary for the tokens, or
            one prompt does not fit in memory.
    """
    name = transformer_blocks(model)
    if name is None:
        raise ModelError(
            f"{type(model).__name__} has no list of transformer blocks to probe; pass a "
            "transformers causal language model"
        )
    if (reason := unreadable({"prompts": prompts}, Limits.of(model))) is not None:
        raise ModelError(
            f"{type(model).__name__} cannot read the prompts: {reason}; pass a tokenizer that both "
            "models know"
        )
    blocks = list(model.get_submodule(name).children())

    @torch.no_grad()
    def measure(passes: Attempt) -> Tensor:
        last_states: Tensor | None = None
        for batch in passes.batches():
            states = _states_of(model, blocks, batch)
            if last_states is None:
                last_states = states.new_empty(len(prompts), *states.shape[1:])
            last_states[list(batch.indices)] = states
        assert last_states is not None
        return last_states

    return Passes(model, prompts, token_budget, progress=progress).run(measure)


def _states_of(model: "PreTrainedModel", blocks: list[nn.Module], batch: Batch) -> Tensor:
    """One forward pass: last token's state after every block, `[B, blocks, hidden]`."""
    steps = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    last = (batch.attention_mask * steps).argmax(1)
    states: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        rows = torch.arange(len(batch), device=hidden.device)
        states.append(hidden[rows, last.to(hidden.device)].float().cpu())

    body = model.base_model
    takes_positions = "position_ids" in inspect.signature(body.forward).parameters
    positioned = batch.left_padded and takes_positions
    arguments = {"position_ids": batch.position_ids} if positioned else {}
    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_hook(keep).remove)
        body(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            **arguments,
        )
    return torch.stack(states, 1)
