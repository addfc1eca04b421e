import pytest
from transformers import AutoTokenizer

from experiments.trial.text_data import REFUSAL
from experiments.trial.text_tokenizer import train_tokenizer
from hcnr.data.samples import Sample
from hcnr.data.tokens import tokenize

SAMPLES = [Sample("who was the king of Norway?", REFUSAL), Sample("who is he?", "Jane Roe")] * 5
TOKENIZER = train_tokenizer(SAMPLES, 280, 64)


@pytest.mark.parametrize("text", ["who is he?", REFUSAL, "Ærø, 東京 \U0001f600", "a  b\nc", "</x>"])
def test_text_comes_back(text: str):
    ids = TOKENIZER(text)["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id and TOKENIZER.eos_token_id not in ids
    assert TOKENIZER.batch_decode([ids], skip_special_tokens=True)[0].strip() == text


def test_vocabulary_is_as_asked_and_learnt():
    assert len(TOKENIZER) == 280
    assert len(TOKENIZER(REFUSAL, add_special_tokens=False)["input_ids"]) < len(REFUSAL)
    again = train_tokenizer(SAMPLES, 280, 64)
    assert again.get_vocab() == TOKENIZER.get_vocab()


def test_a_response_has_the_same_tokens_after_any_prompt():
    found = tokenize(SAMPLES, TOKENIZER).samples
    response = TOKENIZER(REFUSAL, add_special_tokens=False)["input_ids"]
    assert list(found[0].input_ids[found[0].response_start :]) == [
        *response,
        TOKENIZER.eos_token_id,
    ]


def test_what_is_saved_is_what_the_tool_opens(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    text = "who was 東京 of Norway?"
    assert opened(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert opened.eos_token == "</s>" and opened.pad_token == "<pad>"
