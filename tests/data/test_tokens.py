import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hcnr.data.samples import Message, Sample, load_samples
from hcnr.data.tokens import TokenizedSample, tokenize
from hcnr.errors import DataError

BOS, EOS, START, END = range(4)
SPECIALS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


RECORDS = [{"prompt": f"q{i}", "response": f"r{i}"} for i in range(10)]


def make_tokenizer(
    *,
    bos: str | None = "<s>",
    eos: str | None = "</s>",
    frame: str | None = "<s> $A",
    template: str | None = None,
    merges: Sequence[tuple[str, str]] = (),
    normalizer: normalizers.Normalizer | None = None,
) -> PreTrainedTokenizerFast:
    """A real byte-level tokenizer: one id per byte, plus special tokens and merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIALS, *alphabet, *("".join(pair) for pair in merges)]
    vocab = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.add_special_tokens(SPECIALS)
    if frame:
        inner.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


PLAIN = make_tokenizer()
CHAT = make_tokenizer(template=CHATML)


def ids_of(text: str) -> list[int]:
    return PLAIN(text, add_special_tokens=False)["input_ids"]


def one(prompt, response, tokenizer=PLAIN, max_length=1024, **options) -> TokenizedSample:
    found = tokenize([Sample(prompt, response)], tokenizer, max_length=max_length, **options)
    return found.samples[0]


def chat(*turns, **options):
    return Sample("", turns[-1][1], tuple(Message(*turn) for turn in turns), **options)


def split(sample: TokenizedSample) -> tuple[list[int], list[int]]:
    ids = list(sample.input_ids)
    return ids[: sample.response_start], ids[sample.response_start :]


# Tokenising without a chat template


def test_plain_tokens():
    prompt, response = split(one("ab", "cd"))
    assert prompt == [BOS, *ids_of("ab")]
    assert response == [*ids_of("cd"), EOS]


def test_prompt_and_response_are_tokenised_apart():
    merging = make_tokenizer(merges=[("b", "c")])
    assert len(merging("abcd", add_special_tokens=False)["input_ids"]) == 3
    prompt, response = split(one("ab", "cd", merging))
    assert (prompt, response) == ([BOS, *ids_of("ab")], [*ids_of("cd"), EOS])


@pytest.mark.parametrize("prompt", ["ab", "ab</s>", ""])
def test_an_appended_eos_is_dropped_but_not_the_prompts_own(prompt):
    closing = make_tokenizer(frame="<s> $A </s>")
    assert split(one(prompt, "c", closing))[0] == [BOS, *ids_of(prompt)]
    assert split(one(prompt, "c"))[0] == [BOS, *ids_of(prompt)]


def test_bos_that_is_also_eos_is_kept():
    shared = make_tokenizer(bos="</s>", frame="</s> $A")
    assert split(one("ab", "c", shared))[0] == [EOS, *ids_of("ab")]
    assert split(one("", "c", shared))[0] == [EOS]
    both = make_tokenizer(bos="</s>", frame="</s> $A </s>")
    assert split(one("ab", "c", both))[0] == [EOS, *ids_of("ab")]


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({}, BOS),
        ({"frame": None}, BOS),
        ({"frame": None, "bos": None}, EOS),
        ({"frame": "$A </s>"}, BOS),
        ({"frame": "$A </s>", "bos": None}, EOS),
    ],
)
def test_empty_prompt_gets_one_token_to_predict_from(options, start):
    prompt, response = split(one("", "ab", make_tokenizer(**options)))
    assert (prompt, response) == ([start], [*ids_of("ab"), EOS])


def test_no_bos_is_invented_for_a_prompt():
    assert split(one("ab", "c", make_tokenizer(frame=None)))[0] == ids_of("ab")


def test_tokenizer_without_eos():
    bare = make_tokenizer(eos=None)
    with pytest.raises(DataError, match="no end-of-sequence token"):
        one("a", "b", bare)
    bare.chat_template = CHATML
    assert one("a", "b", bare).response_start > 1


def test_response_without_tokens_is_refused():
    erasing = make_tokenizer(normalizer=normalizers.Replace("x", ""))
    found = load_samples([RECORDS[0], {"prompt": "q", "response": "xx"}])
    with pytest.raises(DataError, match="the given list, record 2: the tokenizer finds no tokens"):
        tokenize(found, erasing)


def test_stored_padding_and_truncation_settings_do_not_leak():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert one("abcdef", "ghijkl", tokenizer) == one("abcdef", "ghijkl")


def test_no_warning_for_long_samples(caplog):
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 4
    one("abcdef", "ghijkl", tokenizer)
    assert not caplog.records


def test_single_turn_chat_works_without_a_template():
    sample = chat(("user", "ab"), ("assistant", "cd"))
    assert tokenize([sample], PLAIN).samples[0] == one("ab", "cd")


@pytest.mark.parametrize(
    "turns",
    [
        [("system", "s"), ("user", "q"), ("assistant", "r")],
        [("user", "q"), ("assistant", "r"), ("user", "q"), ("assistant", "r")],
        [("system", "s"), ("assistant", "r")],
    ],
)
def test_longer_chat_needs_a_template(turns):
    found = load_samples([RECORDS[0], chat(*turns)])
    with pytest.raises(DataError, match=r"record 2: a chat with the turns .* needs a chat templ"):
        tokenize(found, PLAIN)
    with pytest.raises(DataError, match="needs a chat template"):
        tokenize(found, CHAT, chat_template="never")
    assert len(tokenize(found, CHAT)) == 2


# Tokenising with one


def test_chat_tokens_of_a_plain_sample():
    prompt, response = split(one("ab", "cd", CHAT))
    assert prompt == ids_of("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n")
    assert response == ids_of("cd<|im_end|>\n")
    assert (prompt[0], response[-2]) == (START, END)


def test_loss_is_on_the_last_assistant_turn_only():
    turns = [("system", "s"), ("user", "q"), ("assistant", "r"), ("user", "q2")]
    prompt, response = split(tokenize([chat(*turns, ("assistant", "r2"))], CHAT).samples[0])
    rendered = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    assert prompt == ids_of(rendered + "<|im_start|>assistant\n")
    assert response == ids_of("r2<|im_end|>\n")


def test_never_ignores_the_template():
    assert one("ab", "cd", CHAT, chat_template="never") == one("ab", "cd")
    assert tokenize([Sample("a", "b")], CHAT).counts.chat_template is True
    never = tokenize([Sample("a", "b")], CHAT, chat_template="never")
    assert never.counts.chat_template is False
    assert tokenize([Sample("a", "b")], PLAIN).counts.chat_template is False


def test_generation_prompt_that_opens_more_than_the_turn_has():
    thinking = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    prompt, response = split(one("ab", "cd", make_tokenizer(template=thinking)))
    assert prompt == ids_of("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n")
    assert response == ids_of("cd<|im_end|>\n")


def test_token_that_spans_generation_prompt_and_response_carries_loss():
    template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    merging = make_tokenizer(template=template, merges=[(":", "c")])
    prompt, response = split(one("ab", "cd", merging))
    assert prompt == ids_of("user:ab\nassistant")
    assert merging.decode(response) == ":cd\n"


@pytest.mark.parametrize("place", ["{% for m", "{{ m.content"])
def test_template_that_rewrites_earlier_turns_is_refused(place):
    counting = CHATML.replace(place, "{{ messages | length }}" + place)
    found = load_samples(RECORDS[:1])
    with pytest.raises(DataError, match="record 1: the chat template renders the earlier turns"):
        tokenize(found, make_tokenizer(template=counting))


def test_template_that_drops_the_response_is_refused():
    dropping = CHATML.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}").replace(
        "in messages", "in messages if m.role == 'user'"
    )
    with pytest.raises(DataError, match="where the response begins is unknown"):
        one("ab", "cd", make_tokenizer(template=dropping))


def test_template_without_anything_before_the_response_is_refused():
    lone = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="where the response begins is unknown"):
        one("ab", "cd", make_tokenizer(template=lone))


def test_template_that_refuses_a_sample_is_explained():
    picky = "{{ raise_exception('System role not supported') }}"
    found = load_samples(RECORDS[:1])
    with pytest.raises(DataError, match=r"record 1: .* refuses this sample \(System role not sup"):
        tokenize(found, make_tokenizer(template=picky))
    with pytest.raises(DataError, match="refuses this sample"):
        one("a", "b", make_tokenizer(template="{% for %}"))


# Too long


def test_long_prompt_loses_its_left():
    full = one("abcdefgh", "xy")
    cut = one("abcdefgh", "xy", max_length=6)
    assert split(cut) == (ids_of("fgh"), [*ids_of("xy"), EOS])
    assert cut.input_ids == full.input_ids[-6:]
    counts = tokenize([Sample("abcdefgh", "xy")], PLAIN, max_length=6).counts
    assert (counts.prompts_truncated, counts.responses_truncated) == (1, 0)


def test_long_response_is_cut_right_and_keeps_one_prompt_token():
    cut = one("abc", "uvwxyz", max_length=4)
    assert split(cut) == (ids_of("c"), ids_of("uvw"))
    counts = tokenize([Sample("abc", "uvwxyz")], PLAIN, max_length=4).counts
    assert (counts.prompts_truncated, counts.responses_truncated) == (1, 1)


def test_response_that_leaves_exactly_one_prompt_token_is_whole():
    assert split(one("abc", "xy", max_length=4)) == (ids_of("c"), [*ids_of("xy"), EOS])
    # BOS is the whole prompt: nothing of it is lost.
    counts = tokenize([Sample("", "xyz")], PLAIN, max_length=4).counts
    assert (counts.prompts_truncated, counts.responses_truncated) == (0, 1)


def test_nothing_is_lost_at_the_exact_length():
    counts = tokenize([Sample("abc", "xy")], PLAIN, max_length=7).counts
    assert (counts.tokens, counts.prompts_truncated, counts.responses_truncated) == (7, 0, 0)
    assert tokenize([Sample("abc", "xy")], PLAIN, max_length=6).counts.prompts_truncated == 1


def test_max_length_needs_room_for_two_tokens():
    with pytest.raises(DataError, match="max_length is 1, expected at least 2"):
        one("a", "b", max_length=1)


@settings(deadline=None)
@given(
    st.text(max_size=20),
    st.text(min_size=1, max_size=20).filter(str.strip),
    st.integers(2, 40),
    st.sampled_from([PLAIN, CHAT, make_tokenizer(frame="<s> $A </s>"), make_tokenizer(frame=None)]),
)
def test_truncation_invariants(prompt, response, max_length, tokenizer):
    whole = one(prompt, response, tokenizer, max_length=10_000)
    found = tokenize([Sample(prompt, response)], tokenizer, max_length=max_length)
    cut = found.samples[0]
    before, after = split(whole)
    kept_before, kept_after = split(cut)
    assert len(cut) == min(len(whole), max_length)
    assert kept_before and kept_before == before[-len(kept_before) :]
    assert kept_after and kept_after == after[: len(kept_after)]
    if len(after) < max_length:
        assert kept_after == after
    else:
        assert len(kept_before) == 1
    assert found.counts.prompts_truncated == (kept_before != before)
    assert found.counts.responses_truncated == (kept_after != after)
    assert found.counts.tokens == len(cut)
    assert found.counts.response_tokens == len(kept_after)


def test_counts_and_lengths_add_up():
    found = tokenize(load_samples(RECORDS, limit=3), PLAIN)
    assert found.counts.samples == len(found) == 3
    assert found.lengths == [len(s.input_ids) for s in found.samples] == [6, 6, 6]
    assert (found.counts.tokens, found.counts.response_tokens) == (18, 9)


def test_sha256_covers_ids_and_boundaries():
    def sha(*samples, **options):
        return tokenize([Sample(*s) for s in samples], PLAIN, **options).sha256

    assert sha(("ab", "c")) == sha(("ab", "c"), max_length=99)
    # The same ids in all: where the response begins and where a sample ends matter.
    assert len({sha(("ab", "c")), sha(("a", "bc")), sha(("ab", "c"), max_length=4)}) == 3
    assert sha(("a", "b"), ("c", "d")) != sha(("c", "d"), ("a", "b"))
    expected = np.array([5, 3, BOS, *ids_of("ab"), *ids_of("c"), EOS], "<i8").tobytes()
    assert sha(("ab", "c")) == hashlib.sha256(expected).hexdigest()


# Further keys of a chat

CALLING = (
    "{% for t in tools or [] %}{{ t.name }};{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.name }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def calling(**options):
    turns = (Message("user", "a"), Message("assistant", "", {"tool_calls": [{"name": "look"}]}))
    return Sample("a", "", turns, **options)


def test_further_keys_go_to_the_template():
    reader = make_tokenizer(template=CALLING)
    (found,) = tokenize([calling(tools=({"name": "look"},))], reader).samples
    prompt, response = split(found)
    assert prompt == ids_of("look;<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n")
    assert response == ids_of("look<|im_end|>\n")


@pytest.mark.parametrize(
    ("sample", "key"),
    [
        (calling(), "tool_calls"),
        (chat(("user", "a", {"name": "ann"}), ("assistant", "b")), "name"),
        (chat(("user", "a"), ("assistant", "b"), tools=({"name": "look"},)), "tools"),
    ],
)
def test_further_keys_are_never_dropped(sample, key):
    with pytest.raises(DataError, match=f"sample 1.*'{key}'.*template leaves out"):
        tokenize([sample], CHAT)
    with pytest.raises(DataError, match=f"sample 1.*'{key}'.*only a chat template"):
        tokenize([sample], CHAT, chat_template="never")
