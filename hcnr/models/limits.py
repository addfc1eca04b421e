"""What a model can read: tokens inside its embedding, samples inside its context."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hcnr.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXTS = ("max_position_embeddings", "max_seq_len")
"""What configurations call the longest text; models without positions have neither."""


class Limits(NamedTuple):
    """Limits of one model, from its structure alone.

    Attributes:
        rows: of the input embedding: token ids are below it; None where it is no plain table.
        context: tokens of the longest sample; None where there is no limit.
    """

    rows: int | None
    context: int | None

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "Limits":
        """Read them off a model, which may be on the meta device."""
        weight = getattr(model.get_input_embeddings(), "weight", None)
        config = model.config.get_text_config()
        contexts = [getattr(config, key, None) for key in CONTEXTS]
        known = [length for length in contexts if isinstance(length, int) and length > 1]
        return cls(None if weight is None else weight.shape[0], min(known, default=None))

    def __and__(self, other: "Limits") -> "Limits":
        """What two models can both read."""
        pairs = zip(self, other, strict=True)
        return Limits(*(min((n for n in both if n is not None), default=None) for both in pairs))


def check_room(encoded: Mapping[str, Sequence[int]], max_new_tokens: int, limits: Limits) -> None:
    """Refuse prompts that a model cannot read or that leave no room for an answer.

    Args:
        encoded: what a prompt is called -> its token ids.
        max_new_tokens: most tokens of an answer.
        limits: of the model.

    Raises:
        DataError: naming the first prompt that cannot be read, or the longest.
    """
    for name, ids in encoded.items():
        if not ids:
            raise DataError(f"{name} has no tokens, expected some")
        if limits.rows is not None and max(ids) >= limits.rows:
            raise DataError(
                f"{name} has the token id {max(ids)}, and the model's embedding has {limits.rows} "
                "rows; pass the tokenizer that belongs to the model"
            )
    if limits.context is None or not encoded:
        return
    name, longest = max(((n, len(ids)) for n, ids in encoded.items()), key=lambda one: one[1])
    if longest + max_new_tokens > limits.context:
        room = limits.context - longest
        cure = f"lower --max-new-tokens to at most {room}"
        if room < 1:
            cure = "drop the question, which alone leaves no room for an answer"
        elif max_new_tokens <= limits.context // 2:
            cure += ", or drop the question"
        raise DataError(
            f"{name} has {longest} tokens, and with {max_new_tokens} new ones (--max-new-tokens) "
            f"it exceeds the model's {limits.context} positions; {cure}"
        )
