from typing import Any

import pytest

from hcnr.data.items import Message
from hcnr.errors import DataError
from hcnr.evaluation.prompts import encode_prompts
from pairs import tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} w1 {{ m['content'] }} w2{% endfor %}"
    "{% if add_generation_prompt %} w9{% endif %}"
)


def test_plain_prompts_keep_the_tokenizers_special_tokens_but_no_end():
    words: Any = tokenizer()
    assert encode_prompts(["w0 w5"], words) == [[3, 8]]
    from tokenizers.processors import TemplateProcessing

    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert encode_prompts(["w0 w5"], words) == [[1, 3, 8]]


def test_chat_template():
    words = tokenizer()
    words.chat_template = TEMPLATE
    assert encode_prompts(["w0 w5"], words) == [[1, 4, 3, 8, 5, 12]]
    assert encode_prompts(["w0 w5"], words, "never") == [[3, 8]]


def test_bad_prompts():
    words = tokenizer()
    with pytest.raises(DataError, match="no tokens in the prompt ' '"):
        encode_prompts([" "], words)
    with pytest.raises(DataError, match="expected 'auto' or 'never'"):
        encode_prompts(["w1"], words, "always")  # pyright: ignore[reportArgumentType]
    words.chat_template = "{{ raise_exception('no user turns') }}"
    with pytest.raises(DataError, match=r"refuses the prompt 'w1'.*no user turns"):
        encode_prompts(["w1"], words)


def test_all_turns_are_rendered_and_need_a_template():
    words = tokenizer()
    system, first, said = Message("system", "w3"), Message("user", "w4"), Message("assistant", "w6")
    turns = (system, first, said, Message("user", "w0 w5"))
    with pytest.raises(DataError, match="'w0 w5' has the turns system, user, assistant, user and"):
        encode_prompts([turns], words)
    assert encode_prompts([(first,)], words) == [[7]]
    words.chat_template = TEMPLATE
    assert encode_prompts([turns], words) == [[1, 4, 6, 5, 4, 7, 5, 4, 9, 5, 4, 3, 8, 5, 12]]
