"""Prompts -> token ids, as a model is asked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from hcnr.data.items import Message
from hcnr.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatTemplate = Literal["auto", "never"]


Prompt = str | Sequence[Message]
"""What a model is given: a text, or turns of a chat."""


def encode_prompts(
    prompts: Sequence[Prompt],
    tokenizer: "PreTrainedTokenizerBase",
    chat_template: ChatTemplate = "auto",
) -> list[list[int]]:
    """Token ids of each prompt, up to where the response begins.

    With a chat template the prompt is the user's turn and the template opens the assistant's;
    without one it is plain text with the tokenizer's special tokens, less an end-of-sequence token.
    Turns of a chat are all rendered by the template.

    Args:
        prompts: texts, or turns.
        tokenizer: a transformers tokenizer.
        chat_template: auto uses the tokenizer's template if it has one.

    Raises:
        DataError: a prompt has no tokens, the template refuses it, or a chat of several turns has
            no template.
    """
    if chat_template not in ("auto", "never"):
        raise DataError(f"chat_template is {chat_template!r}, expected 'auto' or 'never'")
    templated = chat_template == "auto" and bool(tokenizer.chat_template)
    encode = _templated if templated else _plain
    return [encode(prompt, tokenizer) for prompt in prompts]


def _plain(prompt: Prompt, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    if not isinstance(prompt, str):
        if [turn.role for turn in prompt] != ["user"]:
            raise DataError(
                f"the question {prompt[-1].content!r} has the turns "
                f"{', '.join(turn.role for turn in prompt)} and needs a chat template, "
                "expected one user turn; give the tokenizer a chat template (and do not set "
                "chat_template to never)"
            )
        prompt = prompt[0].content
    # Not verbose: a prompt that is too long is refused later, by name.
    ids = cast(list[int], list(tokenizer(prompt, verbose=False)["input_ids"]))
    if ids and ids[-1] == tokenizer.eos_token_id and ids[-1] != tokenizer.bos_token_id:
        ids.pop()
    if not ids:
        raise DataError(f"the tokenizer finds no tokens in the prompt {prompt!r}, expected some")
    return ids


def _templated(prompt: Prompt, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    from jinja2 import TemplateError

    turns = [Message("user", prompt)] if isinstance(prompt, str) else prompt
    try:
        ids = tokenizer.apply_chat_template(
            [turn.as_dict() for turn in turns],
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
