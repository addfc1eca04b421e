import torch
from transformers import AutoTokenizer

from hcnr.demo.recipe import Recipe
from hcnr.demo.tokenizer import build_tokenizer, encode_items, encode_prompts
from hcnr.demo.world import build_world

WORLD = build_world(Recipe())
TOKENIZER = build_tokenizer(WORLD)


def test_every_text_of_the_world_survives_a_round_trip():
    for item in (item for items in WORLD.splits.values() for item in items):
        for text in (item.prompt, item.response):
            ids = TOKENIZER(text)["input_ids"]
            assert ids[0] == TOKENIZER.bos_token_id
            assert TOKENIZER.unk_token_id not in ids
            assert TOKENIZER.decode(ids, skip_special_tokens=True) == text


def test_it_is_a_real_tokenizer_that_loads_by_itself(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompt = WORLD.honesty[0].prompt
    assert loaded(prompt)["input_ids"] == TOKENIZER(prompt)["input_ids"]
    assert loaded.eos_token_id == TOKENIZER.eos_token_id
    assert loaded.chat_template is None


def test_all_prompts_have_one_length():
    prompts = [item.prompt for items in WORLD.splits.values() for item in items]
    assert encode_prompts(TOKENIZER, prompts).shape == (len(prompts), 6)


def test_encoding_follows_the_rule_of_the_tool():
    items = WORLD.honesty[:2]
    ids, labels = encode_items(TOKENIZER, items)
    for item, row, label in zip(items, ids.tolist(), labels.tolist(), strict=True):
        prompt = TOKENIZER(item.prompt)["input_ids"]
        response = TOKENIZER(item.response, add_special_tokens=False)["input_ids"]
        ending = [*response, TOKENIZER.eos_token_id]
        real = len(prompt) + len(ending)
        assert row[:real] == [*prompt, *ending]
        assert row[real:] == [TOKENIZER.pad_token_id] * (len(row) - real)
        assert label == [-100] * len(prompt) + ending + [-100] * (len(row) - real)
    assert torch.equal(ids[labels != -100], labels[labels != -100])
