"""A byte-level BPE tokenizer, learnt from the text that the base of a text world is trained on."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hcnr.data.samples import Sample

_SPECIAL = ["<pad>", "<s>", "</s>"]


def train_tokenizer(
    samples: Iterable[Sample], vocabulary: int, longest: int
) -> PreTrainedTokenizerFast:
    """Learns a tokenizer; it puts BOS in front, as Llama's does, and knows every byte.

    Args:
        samples: Prompts and responses to learn from.
        vocabulary: Most tokens, special ones included.
        longest: Positions of the model.
    """
    inner = Tokenizer(models.BPE())
    # With a space before the first word, a word is the same tokens at both ends of a prompt.
    level = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.pre_tokenizer = level  # pyright: ignore[reportAttributeAccessIssue]
    inner.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for sample in samples for text in (sample.prompt, sample.response))
    inner.train_from_iterator(texts, trainer)
    start = inner.token_to_id("<s>")
    inner.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
    )
