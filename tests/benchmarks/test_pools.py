"""What is chosen to restore and to train with."""

import hashlib
from collections import Counter

import pytest

import invented
from hcnr.benchmarks import pools
from hcnr.benchmarks.falseqa import parse_falseqa
from hcnr.benchmarks.kuq import parse_kuq
from hcnr.benchmarks.pools import honesty_samples, parse_puqa, parse_triviaqa, rait_samples, sample
from hcnr.data.overlap import digest
from hcnr.data.refusals import REFUSALS, refusal
from hcnr.detectors import open_detector
from hcnr.errors import DataError

KEYWORDS = open_detector("unknownbench_keywords")


@pytest.fixture
def honesty():
    corpus = invented.corpus()
    kuq = sorted(
        parse_kuq(corpus["kuq/knowns_unknowns.jsonl"]), key=lambda i: digest(i.question.question)
    )
    return kuq, list(parse_falseqa(corpus["falseqa/train.csv"], "train"))


def test_refusals_are_refusals():
    assert len(set(REFUSALS)) == 8
    for name in ("unknownbench_keywords", "selfaware_substring"):
        assert all(map(open_detector(name), REFUSALS))


def test_refusal_is_chosen_by_the_digest():
    text = "Who wrote Hamlet's last act?"
    salted = b"hcnr-mini-v1:who wrote hamlet s last act"
    assert refusal(text) == REFUSALS[int(hashlib.sha256(salted).hexdigest(), 16) // 100 % 8]
    chosen = Counter(refusal(invented.question("refusal", i)) for i in range(800))
    assert set(chosen) == set(REFUSALS)
    assert min(chosen.values()) > 60


def test_sample(honesty):
    known = next(item.question for item in honesty[0] if item.category is None)
    assert sample(known) == {
        "prompt": known.prompt,
        "response": known.answers[0],
        "question": known.question,
        "answerable": True,
        "set": "kuq",
        "id": known.id,
    }
    false = honesty[1][0].false
    assert sample(false)["response"] == refusal(false.question)


def test_the_questions_of_a_pair_share_a_group(honesty):
    groups = [(sample(pair.false)["group"], sample(pair.true)["group"]) for pair in honesty[1]]
    assert groups[0] == ("falseqa-train-0", "falseqa-train-0")
    assert all(false == true for false, true in groups)
    assert len(set(groups)) == len(groups)


def test_honesty_set(honesty):
    kuq, pairs = honesty
    found = honesty_samples(kuq, pairs, KEYWORDS)
    assert Counter((one["set"], one["answerable"]) for one in found) == {
        ("kuq", False): 32, ("kuq", True): 32, ("falseqa", False): 32, ("falseqa", True): 32
    }  # fmt: skip
    category = {item.question.id: item.category for item in kuq}
    spread = Counter(
        category[one["id"]] for one in found if one["set"] == "kuq" and not one["answerable"]
    )
    assert spread == dict.fromkeys(invented.CATEGORIES, 8)
    assert {one["id"] for one in found if one["set"] == "falseqa"} == {
        question.id for pair in pairs[:32] for question in (pair.false, pair.true)
    }
    assert [digest(one["question"]) for one in found] == sorted(
        digest(one["question"]) for one in found
    )


def test_a_category_that_runs_out_leaves_its_turns_to_the_others(honesty):
    kuq, pairs = honesty
    few = [item for item in kuq if item.category == "ambiguous"][2:]
    kuq = [item for item in kuq if item not in few]
    category = {item.question.id: item.category for item in kuq}
    found = honesty_samples(kuq, pairs, KEYWORDS)
    spread = Counter(category[one["id"]] for one in found if one["set"] == "kuq")
    assert spread == {
        None: 32, "ambiguous": 2, "controversial": 10, "counterfactual": 10, "false assumption": 10
    }  # fmt: skip


def test_answers_that_look_like_refusals_are_passed_over(honesty):
    kuq, pairs = honesty
    known = next(item.question for item in kuq if item.category is None)
    taken = {pairs[0].true.answers[0], known.answers[0]}
    found = honesty_samples(kuq, pairs, lambda response, _: response in taken)
    ids = {one["id"] for one in found}
    assert not ids & {known.id, pairs[0].true.id, pairs[0].false.id}
    assert pairs[32].true.id in ids


def test_pool_that_is_too_small(honesty):
    kuq, pairs = honesty
    with pytest.raises(DataError, match="has 31 questions of the group FalseQA false, expected"):
        honesty_samples(kuq, pairs[:31], KEYWORDS)


def test_puqa_never_shows_its_authors():
    text = 'Who wrote the paper "X"?'
    (found,) = parse_puqa([{"question": text, "authors": ["Jane Roe"], "label": "unknown"}])
    assert not found.answerable
    assert "Jane Roe" not in str(found) + str(sample(found))
    assert sample(found)["response"] in REFUSALS


def test_triviaqa_is_unquoted_and_unique():
    def row(identity, text):
        return {"id": identity, "question": text, "golden_answers": ["X", "Y"]}

    found = parse_triviaqa(
        [
            row("a", '"Who said ""Go""?"'),
            row("b", "Who said Go?"),
            row("c", '"Quoted" or "not"'),
            row("d", "It's?"),
        ]
    )
    assert [(q.id, q.question) for q in found] == [
        ("a", 'Who said "Go"?'),
        ("c", '"Quoted" or "not"'),
        ("d", "It's?"),
    ]
    assert found[0].answers == ("X", "Y")


def test_rait_pool_is_filled_with_triviaqa(honesty, monkeypatch):
    monkeypatch.setattr(pools, "RAIT_SIZE", 74)
    corpus = invented.corpus()
    pool = [sample(q) for pair in honesty[1] for q in (pair.false, pair.true)]
    pool[1]["response"] = "I don't know."
    puqa = parse_puqa(corpus["alignment_for_honesty/puqa.jsonl"])
    trivia = list(parse_triviaqa(corpus["triviaqa/test_subsample.jsonl"]))
    # A question that is in the pool is not taken twice.
    trivia[0] = honesty[1][3].true
    found = rait_samples(pool, puqa, trivia, KEYWORDS)
    assert Counter(one["set"] for one in found) == {"falseqa": 67, "puqa": 6, "triviaqa": 1}
    assert {one["id"] for one in found if one["set"] == "triviaqa"} == {trivia[1].id}
    assert len({one["question"] for one in found}) == 74
    with pytest.raises(DataError, match="the RAIT pool has 73 samples, expected 74"):
        rait_samples(pool, puqa, (), KEYWORDS)
