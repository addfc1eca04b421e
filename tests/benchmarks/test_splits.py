"""Evaluation first, and nothing in training that touches it."""

import pytest

import invented
from hcnr.benchmarks.splits import HONESTY_SETS, TASK_SETS, Splits
from hcnr.data.overlap import bucket, digest

BIOASQ = "bioasq/bioasq_7b-11b_golden_nosnippets.jsonl"
HOTPOTQA = "hotpotqa/hotpot_dev_v1_simplified.json"
KUQ = "kuq/knowns_unknowns.jsonl"
NONAMBIGQA = "alignment_for_honesty/nonambigqa.jsonl"
NQ = "nq_open/NQ-open.dev.jsonl"
SELFAWARE = "selfaware/SelfAware.json"


@pytest.fixture
def corpus():
    return invented.corpus()


def near(text: str, where: range = range(100)) -> str:
    """The same with another last word, which puts it into one of the buckets `where`."""
    start = text.rsplit(" ", 1)[0]
    return next(new for i in range(10**4) if bucket(new := f"{start} other{i}?") in where)


def texts(questions) -> set[str]:
    return {question.question for question in questions}


def kuq_texts(splits: Splits) -> set[str]:
    return texts(item.question for item in splits.kuq_training())


def test_all_of_an_untouched_corpus(corpus):
    splits = Splits(corpus.__getitem__)
    sizes = {name: len(splits.evaluation(name)) for name in HONESTY_SETS + TASK_SETS}
    assert {name: sizes[name] for name in ("falseqa", "nec", "refunq", "selfaware", "nq")} == {
        "falseqa": 8, "nec": 8, "refunq": 8, "selfaware": 4, "nq": 4
    }  # fmt: skip
    for path, name, field in ((HOTPOTQA, "hotpotqa", 80), ("medmcqa/dev.json", "medmcqa", 70)):
        below = {r["question"] for r in corpus[path] if bucket(r["question"]) < field}
        assert texts(splits.task_training(name)) == below
        assert texts(splits.evaluation(name)) == {r["question"] for r in corpus[path]} - below
    assert {q.id for q in splits.evaluation("bioasq")} == {"b0", "b1", "b2", "b3"}
    assert len(splits.task_training("bioasq")) == 136
    assert len(splits.task_training("nq")) == 140
    pool = {r["question"] for r in corpus[KUQ] if bucket(r["question"]) < 30}
    assert kuq_texts(splits) == pool
    assert texts(splits.evaluation("kuq")) == {r["question"] for r in corpus[KUQ]} - pool


@pytest.mark.parametrize("name", HONESTY_SETS + TASK_SETS)
def test_order_is_that_of_the_digests(corpus, name):
    found = [digest(q.question) for q in Splits(corpus.__getitem__).evaluation(name)]
    assert found == sorted(found)


def test_falseqa_evaluation_has_no_answers_to_look_for(corpus):
    assert {q.answers for q in Splits(corpus.__getitem__).evaluation("falseqa")} == {()}


def test_kuq_evaluation_is_neither_in_nor_near_selfaware(corpus):
    first, second = (record["question"] for record in corpus[SELFAWARE][:2])
    # Into the evaluation buckets, or they would stay away for another reason.
    first = corpus[SELFAWARE][0]["question"] = near(first, range(30, 100))
    corpus[KUQ] += [
        {"question": text, "unknown": False, "answer": ["Red"]}
        for text in (first, near(second, range(30, 100)), near(first[::-1], range(30, 100)))
    ]
    found = texts(Splits(corpus.__getitem__).evaluation("kuq"))
    assert first not in found
    assert near(second, range(30, 100)) not in found
    assert near(first[::-1], range(30, 100)) in found


def test_task_evaluation_is_neither_in_nor_near_honesty_sets(corpus):
    unanswerable = corpus["unknownbench/RefuNQ/RefuNQ_unanswerable.json"][0]["prompt"]
    corpus[NQ].append({"question": near(unanswerable), "answer": ["Red"]})
    assert len(Splits(corpus.__getitem__).evaluation("nq")) == 4


@pytest.mark.parametrize("changed", [str, near])
@pytest.mark.parametrize("path", [NQ, "bioasq", "unknownbench/NEC/NEC_answerable.json"])
def test_training_is_neither_in_nor_near_evaluation(corpus, path, changed):
    record = corpus[BIOASQ][0] if path == "bioasq" else corpus[path][0]
    text = changed(record.get("question") or record.get("prompt") or record["body"])
    corpus[NONAMBIGQA].append({"question": text, "answers": ["Red"]})
    assert text not in texts(Splits(corpus.__getitem__).task_training("nq"))


def test_inside_one_source_another_token_is_another_question(corpus):
    equal, pattern = corpus[BIOASQ][0]["body"], near(corpus[BIOASQ][1]["body"])
    corpus[BIOASQ] += [{**corpus[BIOASQ][-1], "body": text} for text in (equal, pattern)]
    found = texts(Splits(corpus.__getitem__).task_training("bioasq"))
    assert equal not in found
    assert pattern in found


def test_kuq_pool_is_not_near_kuq_evaluation(corpus):
    evaluated = next(r["question"] for r in corpus[KUQ] if bucket(r["question"]) >= 30)
    pool = near(evaluated, range(30))
    corpus[KUQ].append({"question": pool, "unknown": False, "answer": ["Red"]})
    splits = Splits(corpus.__getitem__)
    assert pool not in kuq_texts(splits)
    assert pool not in texts(splits.evaluation("kuq"))


def test_falseqa_pairs_go_together(corpus):
    test, train = corpus["falseqa/test.csv"], corpus["falseqa/train.csv"]
    train[0]["question"] = near(test[0]["question"])  # The false one of the first pair.
    train[34 + 5]["question"] = near(test[1]["question"])  # The true one of the sixth.
    train[7]["question"] = train[34 + 7]["question"]  # Both labels.
    found = Splits(corpus.__getitem__).falseqa_training()
    assert {pair.false.id for pair in found} == {
        f"train-{i}-false" for i in range(34) if i not in (0, 5, 7)
    }


def test_further_training_questions(corpus):
    splits = Splits(corpus.__getitem__)
    own, known = splits.task_training("nq")[:2], splits.evaluation("nq")[:2]
    assert splits.without_evaluation([*known, *reversed(own)]) == own
