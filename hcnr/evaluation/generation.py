"""Greedy answers in batches: longest prompt first, smaller batches when memory runs out."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

from hcnr.config.shared import BATCH_SIZE, MAX_NEW_TOKENS
from hcnr.errors import DataError, ModelError
from hcnr.evaluation.prompts import ChatTemplate, encode_prompts
from hcnr.models.device_memory import out_of_memory
from hcnr.models.limits import Limits, check_room
from hcnr.models.model import eval_mode
from hcnr.progress import Watcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Result = TypeVar("Result")


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str] | Sequence[list[int]],
    *,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int = MAX_NEW_TOKENS,
    chat_template: ChatTemplate = "auto",
    names: Sequence[str] | None = None,
    on_answer: Callable[[int, str], None] | None = None,
    unfinished: set[int] | None = None,
    watcher: Watcher | None = None,
) -> list[str]:
    """Answer prompts greedily.

    Every token is the plain argmax: whatever else the model's generation config asks for (sampling,
    penalties, suppressed tokens) is left out; its end-of-sequence tokens count. A batch that does
    not fit into memory is tried again at half its size, and so are all later ones.

    Args:
        model: a causal language model; it is left as it was.
        tokenizer: its tokenizer.
        prompts: texts, or token ids.
        batch_size: prompts answered at once, at first.
        max_new_tokens: most tokens of an answer.
        chat_template: see `hcnr.evaluation.prompts.encode_prompts`.
        names: of the prompts, for messages.
        on_answer: called with a prompt's index and its answer as soon as that is known.
        unfinished: gets the indices of answers that `max_new_tokens` cut off.
        watcher: told how many prompts are answered.

    Returns:
        The answers without special tokens and outer white space, in the order of `prompts`.

    Raises:
        DataError: a prompt has no tokens or leaves no room for an answer, or
            has a token outside of the model's embedding.
        ModelError: not even one prompt fits into memory.
    """
    check_sizes(batch_size, max_new_tokens)
    texts = [i for i, prompt in enumerate(prompts) if isinstance(prompt, str)]
    encoded = cast(list[list[int]], list(prompts))
    encoded_texts = encode_prompts([cast(str, prompts[i]) for i in texts], tokenizer, chat_template)
    for i, ids in zip(texts, encoded_texts, strict=True):
        encoded[i] = ids
    names = names or [f"prompt {i}" for i in range(1, len(encoded) + 1)]
    check_room(dict(zip(names, encoded, strict=True)), max_new_tokens, Limits.of(model))
    pad, ends = padding_token(tokenizer), end_tokens(model, tokenizer)

    def answer(chunk: Sequence[int]) -> list[str]:
        ids, mask = pad_left([encoded[i] for i in chunk], pad, model.device)
        output = cast(Any, model).generate(input_ids=ids, attention_mask=mask)
        sequences = output[:, ids.shape[1] :].tolist()
        new = [_until(one, ends) for one in sequences]
        if unfinished is not None:
            pairs = zip(chunk, new, strict=True)
            unfinished.update(i for i, one in pairs if len(one) == max_new_tokens)
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    answers = [""] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: (-len(encoded[i]), i))
    done = 0
    with _greedy(model, ends, max_new_tokens, pad), eval_mode(model), torch.no_grad():
        for chunk, texts_of_chunk in run_batches(order, batch_size, answer):
            for i, text in zip(chunk, texts_of_chunk, strict=True):
                answers[i] = text
                if on_answer is not None:
                    on_answer(i, text)
            done += len(chunk)
            if watcher is not None:
                watcher.advance(done, len(order))
    return answers


def check_sizes(batch_size: int, max_new_tokens: int) -> None:
    """Raise DataError where one is below 1."""
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise DataError(f"{name} is {value}, expected at least 1")


def run_batches(
    order: Sequence[int], batch_size: int, work: Callable[[Sequence[int]], Result]
) -> Iterator[tuple[Sequence[int], Result]]:
    """Do `work` on consecutive pieces of `order`, in halves from where memory runs out.

    Yields:
        Each piece with its result.

    Raises:
        ModelError: a single item does not fit.
    """
    start = 0
    while start < len(order):
        chunk = order[start : start + batch_size]
        try:
            result = work(chunk)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failure = (str(error).splitlines() or [type(error).__name__])[0]
        else:
            yield chunk, result
            start += len(chunk)
            continue
        # After the except clause: the error's traceback no longer holds the batch's tensors.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(chunk) == 1:
            raise ModelError(
                f"not even one question fits into the memory beside the model ({failure}); use "
                "another --device or a smaller --dtype"
            )
        batch_size = len(chunk) // 2


def pad_left(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 `[B, T]`, of sequences padded on the left."""
    longest = max(map(len, sequences))
    ids = [[pad] * (longest - len(sequence)) + list(sequence) for sequence in sequences]
    mask = [[0] * (longest - len(sequence)) + [1] * len(sequence) for sequence in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def padding_token(tokenizer: "PreTrainedTokenizerBase") -> int:
    """An id to pad with: masked, so any will do."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(cast(int, token) for token in known if token is not None)


@contextlib.contextmanager
def _greedy(
    model: "PreTrainedModel", ends: set[int], max_new_tokens: int, pad: int
) -> Iterator[None]:
    """Give the model a generation config that is nothing but greedy.

    Handing one to `generate` is not enough: what it leaves open is filled in from the model's own.
    """
    from transformers import GenerationConfig

    former = cast(Any, model).generation_config
    cast(Any, model).generation_config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    try:
        yield
    finally:
        cast(Any, model).generation_config = former


def end_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Tokens that end an answer, by the model's generation config and by the tokenizer."""
    own = getattr(cast(Any, model).generation_config, "eos_token_id", None)
    known = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    return {cast(int, token) for token in known if token is not None}


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, tokens))
