"""Samples -> token ids that know where the response begins."""

import hashlib
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from hcnr.data.samples import Sample, SampleSet
from hcnr.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedSample:
    """Token ids `[T]` of one sample; positions from `response_start` (at least 1) carry loss."""

    input_ids: tuple[int, ...]
    response_start: int

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class TokenCounts:
    """What tokenising did, for the report."""

    samples: int
    tokens: int
    response_tokens: int
    prompts_truncated: int
    responses_truncated: int
    chat_template: bool


@dataclass(frozen=True)
class TokenizedSet:
    """Tokenised samples in the order of their `SampleSet`; sha256 covers ids and boundaries."""

    samples: tuple[TokenizedSample, ...]
    counts: TokenCounts
    sha256: str

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [len(sample) for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)


def tokenize(
    samples: SampleSet | Sequence[Sample],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    max_length: int = 1024,
    chat_template: Literal["auto", "never"] = "auto",
) -> TokenizedSet:
    """Turn samples into token ids and say where the loss begins.

    Without a chat template the ids are the prompt with the tokenizer's special tokens (an EOS it
    appends is dropped, or the model would see the turn end before the response), the response
    without them, and EOS; the response and EOS carry loss. With one they are the template's
    rendering, whose last assistant turn carries loss, up to the end of the rendering.

    A sample longer than `max_length` loses the left of its prompt. If the response alone leaves no
    room for one prompt token, from which its first token is predicted, it is cut on the right.

    Args:
        samples: what `load_samples` returned, or samples.
        tokenizer: a transformers tokenizer.
        max_length: tokens kept of a sample, at least 2.
        chat_template: auto uses the tokenizer's template if it has one.

    Raises:
        DataError: a sample cannot be tokenised in this way; names it and why.
    """
    if max_length < 2:
        raise DataError(
            f"max_length is {max_length}, expected at least 2: a prompt and a response token"
        )
    chosen = samples.samples if isinstance(samples, SampleSet) else samples
    locations = (
        samples.locations
        if isinstance(samples, SampleSet)
        else [f"sample {i}" for i in range(1, len(chosen) + 1)]
    )
    templated = chat_template == "auto" and bool(tokenizer.chat_template)
    encode = _encode_chat if templated else _plain_encoder(tokenizer)
    cut, prompts_truncated, responses_truncated = [], 0, 0
    for location, sample in zip(locations, chosen, strict=True):
        prompt, response = encode(location, sample, tokenizer)
        room = max(1, max_length - len(response))
        prompts_truncated += len(prompt) > room
        responses_truncated += len(response) > max_length - 1
        prompt = prompt[-room:]
        ids = (*prompt, *response[: max_length - len(prompt)])
        cut.append(TokenizedSample(ids, len(prompt)))
    digest = hashlib.sha256()
    for sequence in cut:
        digest.update(
            np.array([len(sequence), sequence.response_start, *sequence.input_ids], "<i8").tobytes()
        )
    tokens = sum(len(one) for one in cut)
    counts = TokenCounts(
        samples=len(cut),
        tokens=tokens,
        response_tokens=tokens - sum(one.response_start for one in cut),
        prompts_truncated=prompts_truncated,
        responses_truncated=responses_truncated,
        chat_template=templated,
    )
    return TokenizedSet(tuple(cut), counts, digest.hexdigest())


# (location, sample, tokenizer) -> ids before the loss begins, ids that carry loss; neither empty.
Encoder = Callable[[str, Sample, "PreTrainedTokenizerBase"], tuple[list[int], list[int]]]


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, special: bool) -> list[int]:
    # Not verbose: a text beyond the model's length is cut right after, no reason to warn.
    encoded = tokenizer(text, add_special_tokens=special, verbose=False)
    return list(cast(list[int], encoded["input_ids"]))


def _plain_encoder(tokenizer: "PreTrainedTokenizerBase") -> Encoder:
    """Return the encoder for a tokenizer without a chat template."""
    eos = cast(int | None, tokenizer.eos_token_id)
    if eos is None:
        raise DataError(
            "the tokenizer has no end-of-sequence token to end a response with; set its eos_token"
        )
    # Asked once of a neutral text: in a sample, a final EOS might also be the prompt's own.
    appends_eos = _ids(tokenizer, "a", special=True)[-1:] == [eos]
    bos = cast(int | None, tokenizer.bos_token_id)
    start = eos if bos is None else bos

    def encode(
        location: str, sample: Sample, tokenizer: "PreTrainedTokenizerBase"
    ) -> tuple[list[int], list[int]]:
        if sample.messages and [turn.role for turn in sample.messages] != ["user", "assistant"]:
            roles = ", ".join(turn.role for turn in sample.messages)
            raise DataError(
                f"{location}: a chat with the turns {reprlib.repr(roles)} needs a chat template, "
                "expected one user and one assistant turn; give the tokenizer a chat template "
                "(and do not set chat_template to never)"
            )
        if (key := sample.needs_template) is not None:
            raise DataError(
                f"{location}: the chat has {key!r}, which only a chat template can render; give "
                "the tokenizer one (and do not set chat_template to never), or remove the key"
            )
        first, *_, last = sample.chat()
        prompt = _ids(tokenizer, first["content"], special=True)
        if appends_eos and prompt[-1:] == [eos]:
            prompt.pop()
        response = _ids(tokenizer, last["content"], special=False)
        if not response:
            raise DataError(
                f"{location}: the tokenizer finds no tokens in the response, expected some"
            )
        return prompt or [start], [*response, eos]

    return encode


def _encode_chat(
    location: str, sample: Sample, tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[int]]:
    """Render a chat and split it where the last assistant turn begins."""
    from jinja2 import TemplateError

    tools = list(sample.tools) or None

    def render(turns: list[dict[str, Any]], generate: bool, offered: Any = tools) -> list[int]:
        encoded = tokenizer.apply_chat_template(
            turns, tools=offered, add_generation_prompt=generate, tokenize=True, return_dict=False
        )
        return list(cast(list[int], encoded))

    chat, ignored = sample.chat(), None
    try:
        for key in dict.fromkeys(key for turn in sample.messages or () for key in turn.more):
            without = [{k: v for k, v in turn.items() if k != key} for turn in chat]
            if render(without, False) == render(chat, False):
                ignored = key
        if tools and render(chat, False, None) == render(chat, False):
            ignored = "tools"
        full, prompt = render(chat, False), render(chat[:-1], True)
        split = _common_prefix(prompt, full)
        # A generation prompt may open more than the rendered turn has, such as a block of
        # thoughts. The split is still sound while all earlier turns lie before it.
        sound = split == len(prompt) or split >= _common_prefix(
            (history := render(chat[:-1], False)), full
        ) == len(history)
    except (TemplateError, ValueError, TypeError, LookupError) as error:
        raise DataError(
            f"{location}: the tokenizer's chat template refuses this sample ({error}); correct the "
            "sample or set chat_template to never"
        ) from None
    if ignored is not None:
        raise DataError(
            f"{location}: the chat has {ignored!r}, which the tokenizer's chat template leaves "
            "out; remove the key if it does not matter, or give the tokenizer a template that "
            "renders it"
        )
    if not sound or split == 0 or split == len(full):
        raise DataError(
            f"{location}: the chat template renders the earlier turns differently once the "
            "response is there, so where the response begins is unknown; expected the first "
            "rendering to begin the second; set chat_template to never or give the tokenizer "
            "another template"
        )
    return full[:split], full[split:]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading ids agree."""
    return next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b),
        min(len(left), len(right)),
    )
