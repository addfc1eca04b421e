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
        DataError: naming the first such prompt.
    """
    for name, ids in encoded.items():
        if not ids:
            raise DataError(f"{name} has no tokens, expected some")
        if limits.rows is not None and max(ids) >= limits.rows:
            raise DataError(
                f"{name} has the token id {max(ids)}, and the model's embedding has {limits.rows} "
                "rows; pass the tokenizer that belongs to the model"
            )
        if limits.context is not None and len(ids) + max_new_tokens > limits.context:
            raise DataError(
                f"{name} has {len(ids)} tokens, and with {max_new_tokens} new ones it exceeds the "
                f"model's {limits.context} positions; drop the question or lower max_new_tokens"
            )
