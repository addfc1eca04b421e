import numpy as np
import pytest

from hcnr.config import RestoreConfig
from hcnr.data.samples import Sample, load_samples
from hcnr.errors import ConfigError, DataError
from hcnr.probes.data import check_classes, label, neutral_prompts
from pairs import tokenizer, write_jsonl

DETECTOR = "unknownbench_keywords"
CHATML = (
    "{% for m in messages %}w1 {{ m.content }} w2 {% endfor %}"
    "{% if add_generation_prompt %}w1{% endif %}"
)


def record(question, response="w1", **more):
    return {"prompt": question, "response": response, **more}


def labels(records, **settings):
    return label(records, RestoreConfig(**settings), DETECTOR)


def test_the_field_wins_over_the_response(tmp_path):
    records = [
        record("a", "I don't know.", answerable=True),
        record("b", "Paris.", answerable=False),
        record("c", "Paris.", answerable=1),
    ]
    for source in (records, iter(records), write_jsonl(tmp_path / "h.jsonl", records)):
        found = labels(source)
        assert found.positive.tolist() == [False, True, False]
        assert found.facts["labelled_by"] == "the field answerable"
        assert (found.facts["unanswerable"], found.facts["answerable"]) == (1, 2)


def test_without_the_field_a_refusal_means_unanswerable():
    messages = [
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": "Sorry, that is unclear."},
    ]
    found = labels(
        [Sample("a", "I don\u2019t know."), record("b", "Paris."), {"messages": messages}]
    )
    assert found.positive.tolist() == [True, False, True]
    assert found.facts["labelled_by"] == "the detector unknownbench_keywords on the responses"
    with pytest.raises(ConfigError, match="did you mean unknownbench_keywords"):
        label([record("a")], RestoreConfig(), "unknownbench")


@pytest.mark.parametrize("value", [None, "yes", 2, "true"])
def test_a_missing_or_unknown_label_is_named(tmp_path, value):
    path = write_jsonl(
        tmp_path / "h.jsonl", [record("a", answerable=True), record("b", answerable=value)]
    )
    with pytest.raises(DataError, match=r"h\.jsonl, line 2 has .* as 'answerable', expected true"):
        labels(path)


def test_labels_follow_the_samples_through_limit_and_shuffle(tmp_path):
    records = [record(f"q{i}", f"r{i}", answerable=i % 3 == 0) for i in range(40)]
    path = write_jsonl(tmp_path / "h.jsonl", records)
    for settings in ({"samples": 7}, {"samples": 25, "shuffle_seed": 4}):
        found = labels(path, **settings)
        chosen = load_samples(
            path, limit=settings["samples"], shuffle_seed=settings.get("shuffle_seed")
        )
        assert found.facts["sha256"] == chosen.sha256
        numbers = [int(sample.prompt[1:]) for sample in found.samples.samples]
        assert found.positive.tolist() == [i % 3 != 0 for i in numbers]
        assert f"{settings['samples']} of the 40 samples" in found.notes[0]
    assert not labels(path).notes


def test_duplicates_and_named_groups_stay_together():
    found = labels(
        [
            record("Where is it?"),
            record("  where is IT "),
            record("Where is he?"),
            record("Why?", group=7),
            record("Who?", group=7),
            record("\u4f60\u597d"),
            record("\u4f60\u4eec"),
            record("?!"),
            record("!?"),
        ]
    )
    assert found.groups.tolist() == [0, 0, 1, 2, 2, 3, 4, 5, 6]
    assert found.facts["groups"] == 7


def test_too_few_of_a_class_is_one_sentence():
    records = [record(f"q{i}", answerable=i >= 9) for i in range(40)]
    with pytest.raises(DataError, match="the given list has 9 distinct unanswerable questions"):
        check_classes(labels(records), 5)
    check_classes(labels(records), 4)
    # A question asked ten times is one question.
    copies = [record("q", answerable=False)] * 10 + records[9:]
    with pytest.raises(DataError, match="has 1 distinct unanswerable questions"):
        check_classes(labels(copies), 2)


@pytest.mark.parametrize("template", [None, CHATML])
def test_prompts_end_where_the_response_would_begin(template):
    words = tokenizer()
    words.chat_template = template
    samples = load_samples([record("w5 w6", "w9 w9 w9"), record("w7", "w8")])
    found = neutral_prompts(samples, words, RestoreConfig())
    expected = [[8, 9], [10]] if template is None else [[4, 8, 9, 5, 4], [4, 10, 5, 4]]
    assert [list(one.input_ids) for one in found.samples] == expected
    assert found.counts.chat_template is (template is not None)


def test_nothing_of_the_response_reaches_a_prompt_that_is_cut():
    long = " ".join(f"w{i}" for i in range(12))
    settings = RestoreConfig(max_length=8)

    def prompts(response):
        samples = load_samples([record(long, response), record("w1", "w2")])
        return neutral_prompts(samples, tokenizer(), settings).samples

    short, much = prompts("w3"), prompts("w3 w4 w5 w6")
    assert short == much
    assert len(short[0]) == 6  # the stand-in response and the end take two of eight
    assert np.array_equal(short[0].input_ids, np.arange(6, 12) + 3)
