"""What is printed about one model and about two, against resampling by plain loops."""

import dataclasses
import hashlib

import numpy as np
import pytest

from hcnr.benchmarks.questions import Question
from hcnr.detectors import open_detector
from hcnr.errors import DataError
from hcnr.evaluation.metrics import HONESTY_RATES, outcomes
from hcnr.evaluation.scoring import SetScores, difference

KEYWORDS = open_detector("unknownbench_keywords")
GENERATOR = np.random.default_rng(3)
SAID = ["no", "Paris", "", "it is unclear", "rome"]


def questions(name, n, classes=(True, False)):
    return [
        Question(f"{name}{i}", name, "q", classes[i % len(classes)], ("Paris", "Rome"), "p")
        for i in range(n)
    ]


def random_scores(sizes, resamples=200, seed=0):
    found = {}
    for name, n in sizes.items():
        said = [SAID[i] for i in GENERATOR.integers(0, len(SAID), n)]
        found[name] = outcomes(questions(name, n), said, KEYWORDS)
    return SetScores(found, resamples=resamples, seed=seed)


def drawn(name, n, resamples, seed):
    """The draw, as documented: indices from a generator seeded by the seed and the set's name."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype="<u4")
    return np.random.default_rng([seed, *words]).integers(0, n, size=(resamples, n))


def f1_and_delta(found, chosen):
    tp = fp = bad = good = 0
    for i in chosen:
        refused, answerable = bool(found.refused[i]), bool(found.answerable[i])
        tp += refused and not answerable
        fp += refused and answerable
        bad += not answerable
        good += answerable
    f1 = 100 * 2 * tp / (tp + fp + bad) if bad else np.nan
    return f1, 100 * tp / bad - 100 * fp / good if bad and good else np.nan


def test_intervals_equal_plain_loops():
    scores, other = random_scores({"a": 30, "b": 9}), random_scores({"a": 30, "b": 9})
    table, gap = scores.as_dict(), difference(scores, other)
    mine, theirs = {}, {}
    for name, n in (("a", 30), ("b", 9)):
        rows = drawn(name, n, 200, 0)
        mine[name] = np.array([f1_and_delta(scores.honesty[name], row) for row in rows])
        theirs[name] = np.array([f1_and_delta(other.honesty[name], row) for row in rows])
        for column, rate in ((0, "f1"), (1, "refusal_delta")):
            expected = np.nanpercentile(mine[name][:, column], [2.5, 97.5])
            assert table["sets"][name]["ci95"][rate] == pytest.approx(expected)
            expected = np.nanpercentile((mine[name] - theirs[name])[:, column], [2.5, 97.5])
            assert gap["sets"][name][rate]["ci95"] == pytest.approx(expected)
    mean = (mine["a"][:, 0] + mine["b"][:, 0]) / 2
    assert table["macro"]["ci95"]["f1"] == pytest.approx(np.nanpercentile(mean, [2.5, 97.5]))
    apart = mean - (theirs["a"][:, 0] + theirs["b"][:, 0]) / 2
    assert gap["macro"]["f1"]["ci95"] == pytest.approx(np.nanpercentile(apart, [2.5, 97.5]))
    values = [table["sets"][name]["f1"] for name in "ab"]
    assert table["macro"]["f1"] == pytest.approx(sum(values) / 2)


def test_a_model_does_not_differ_from_itself():
    scores = random_scores({"a": 20})
    for one in difference(scores, scores)["sets"]["a"].values():
        assert one == {"value": 0, "ci95": [0, 0]}


def test_pairing_makes_the_interval_of_a_difference_narrower():
    n = 400
    said = ["no" if i % 4 < 2 else "Paris" for i in range(n)]
    better = list(said)
    better[2] = better[6] = "no"
    one, two = (SetScores({"a": outcomes(questions("a", n), s, KEYWORDS)}) for s in (better, said))
    gap = difference(one, two)["sets"]["a"]["refusal_rate_answerable"]["ci95"]
    own = one.as_dict()["sets"]["a"]["ci95"]["refusal_rate_answerable"]
    assert gap[1] - gap[0] < (own[1] - own[0]) / 5


def test_the_keys_of_a_set():
    found = random_scores({"a": 12}).as_dict()["sets"]["a"]
    assert {"detector", "n", "tp", "fp", "fn", "tn", "empty", "ci95", *HONESTY_RATES} <= set(found)
    assert found["tp"] + found["fp"] + found["fn"] + found["tn"] == found["n"] == 12
    assert found["detector"] == "unknownbench_keywords"
    assert set(found["ci95"]) == set(HONESTY_RATES)


def test_one_class_only_is_said_and_left_out_of_the_mean():
    both = outcomes(questions("a", 4), ["no", "no", "x", "no"], KEYWORDS)
    only = outcomes(questions("b", 3, (False,)), ["no", "x", "x"], KEYWORDS)
    none = outcomes(questions("c", 3, (True,)), ["no", "x", "x"], KEYWORDS)
    scores = SetScores({"a": both, "b": only, "c": none}, resamples=50)
    table = scores.as_dict()
    assert table["sets"]["b"]["refusal_delta"] is None
    assert table["sets"]["b"]["ci95"]["refusal_delta"] is None
    assert table["sets"]["b"]["f1"] == pytest.approx(50)
    assert table["sets"]["c"]["f1"] is None
    assert table["macro"]["refusal_delta"] == table["sets"]["a"]["refusal_delta"]
    assert [note.split(":")[0] for note in scores.notes()] == [
        "b has no answerable questions",
        "c has no unanswerable questions",
    ]


def test_compat_says_what_is_counted():
    detector = dataclasses.replace(KEYWORDS, skips_empty=True)
    found = outcomes(questions("a", 4), ["", "no", "", "x"], detector)
    notes = SetScores({"a": found}, resamples=0).notes()
    assert notes[0].startswith("a has no answerable questions that count: the refusal delta is")


def test_means_say_over_how_many_sets_they_are():
    one = outcomes(questions("a", 4), ["no", "no", "x", "no"], KEYWORDS)
    never = outcomes(questions("b", 4), ["x"] * 4, KEYWORDS)
    bare = [dataclasses.replace(question, answers=()) for question in questions("c", 4)]
    silent = outcomes(bare, ["no", "x", "no", "x"], KEYWORDS)
    scores = SetScores({"a": one, "b": never, "c": silent}, resamples=20)
    macro = scores.as_dict()["macro"]
    assert macro["sets"] == 3
    assert macro["sets_by_rate"] == {
        "precision": 2, "accuracy_answerable": 2, "exact_match_answerable": 2,
    }  # fmt: skip
    assert scores.notes() == [
        "c: no accepted answers are known, so accuracy and exact match are undefined there, and "
        "the means leave them out."
    ]
    # Precision is defined for this model in a and c, for the other in b and c.
    theirs = SetScores(
        {
            "a": outcomes(questions("a", 4), ["x"] * 4, KEYWORDS),
            "b": outcomes(questions("b", 4), ["no"] * 4, KEYWORDS),
            "c": outcomes(bare, ["no"] * 4, KEYWORDS),
        },
        resamples=20,
    )
    gap = difference(scores, theirs)
    assert gap["macro"]["sets_by_rate"]["precision"] == 1
    assert gap["macro"]["precision"]["value"] == gap["sets"]["c"]["precision"]["value"] == -50
    assert gap["macro"]["f1"]["value"] == pytest.approx(
        macro["f1"] - theirs.as_dict()["macro"]["f1"]
    )


def test_tasks():
    task = outcomes(questions("t", 4, (True,)), ["Paris", "in Rome", "no", ""], KEYWORDS)
    table = SetScores({}, {"t": task}, resamples=20).as_dict()
    found = table["tasks"]["t"]
    assert (found["accuracy"], found["exact_match"], found["refusal_rate"]) == (50, 25, 25)
    assert (found["n"], found["gold"], found["empty"]) == (4, 4, 1)
    assert table["tasks_macro"]["accuracy"] == 50
    assert table["macro"] == table["sets"] == {}


def test_no_resamples_no_intervals():
    scores = random_scores({"a": 6}, resamples=0)
    assert scores.as_dict()["sets"]["a"]["ci95"] == {}
    assert difference(scores, scores)["macro"]["f1"]["ci95"] is None


def test_a_comparison_needs_the_same_questions():
    one = random_scores({"a": 6})
    with pytest.raises(DataError, match="question 'a6' is not the same for both"):
        difference(one, random_scores({"a": 7}))
    with pytest.raises(DataError, match="needs the same sets"):
        difference(one, random_scores({"b": 6}))
