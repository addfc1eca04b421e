"""Prompts -> token ids, as a model is asked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from hcnr.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatTemplate = Literal["auto", "never"]


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    chat_template: ChatTemplate = "auto",
) -> list[list[int]]:
    """Token ids of each prompt, up to where the response begins.

    With a chat template the prompt is the user's turn and the template opens the assistant's;
    without one it is plain text with the tokenizer's special tokens, less an end-of-sequence token.

    Args:
        prompts: texts.
        tokenizer: a transformers tokenizer.
        chat_template: auto uses the tokenizer's template if it has one.

    Raises:
        DataError: a prompt has no tokens, or the template refuses it.
    """
    if chat_template not in ("auto", "never"):
        raise DataError(f"chat_template is {chat_template!r}, expected 'auto' or 'never'")
    templated = chat_template == "auto" and bool(tokenizer.chat_template)
    encode = _templated if templated else _plain
    return [encode(prompt, tokenizer) for prompt in prompts]


def _plain(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    # Not verbose: a prompt that is too long is refused later, by name.
    ids = cast(list[int], list(tokenizer(prompt, verbose=False)["input_ids"]))
    if ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id:
        ids.pop()
    if not ids:
        raise DataError(f"the tokenizer finds no tokens in the prompt {prompt!r}, expected some")
    return ids


def _templated(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    from jinja2 import TemplateError

    try:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except (TemplateError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"the tokenizer's chat template refuses the prompt {prompt!r} ({error}); set "
            "chat_template to never"
        ) from None
    return list(cast(list[int], ids))
