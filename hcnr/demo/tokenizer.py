"""A real Hugging Face tokenizer for the invented world: one token per word."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hcnr.demo.world import World, WorldItem

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """The word-level tokenizer of a world; it puts BOS in front, as Llama's does."""
    ids = {word: index for index, word in enumerate((*_SPECIAL, *world.words))}
    inner = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    inner.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=32,
        clean_up_tokenization_spaces=False,
    )


def encode_prompts(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> torch.Tensor:
    """Prompt ids `[n, p]` with special tokens; all prompts of a world have one length."""
    return torch.tensor(tokenizer(list(prompts))["input_ids"])


def encode_items(
    tokenizer: PreTrainedTokenizerFast, items: Sequence[WorldItem]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Training tensors by the tool's own rule.

    The tokens are prompt with special tokens, response without, EOS; the loss is on response and
    EOS. Training and measuring must agree here, or the repair would judge another model.

    Returns:
        `ids [n, t]`, padded on the right, and `labels [n, t]`, -100 where there is no loss.
    """
    prompts = encode_prompts(tokenizer, [item.prompt for item in items])
    responses = tokenizer([item.response for item in items], add_special_tokens=False)["input_ids"]
    endings = [[*response, tokenizer.eos_token_id] for response in responses]
    longest = max(map(len, endings))
    pad = tokenizer.pad_token_id
    tails = torch.tensor([ending + [pad] * (longest - len(ending)) for ending in endings])
    lengths = torch.tensor([len(ending) for ending in endings])
    ids = torch.cat([prompts, tails], dim=1)
    position = torch.arange(longest)
    silent = torch.where(position < lengths[:, None], tails, -100)
    return ids, torch.cat([torch.full_like(prompts, -100), silent], dim=1)
