import os
from typing import Any

import pytest

from hcnr.benchmarks.loading import load_sets
from hcnr.benchmarks.questions import Question
from hcnr.config import EvaluateConfig
from hcnr.detectors.traits import HONESTY, SAFETY
from hcnr.errors import ConfigError, DataError, ModelError
from hcnr.evaluation.question_sets import make_question_sets

QUESTIONS = (
    Question("1", "kuq", "q", False, (), "p"),
    Question("2", "kuq", "q", True, ("a",), "p"),
)
WANTED = {"kuq": "selfaware", "nec": "unknownbench_keywords"}
SETS = {"nec": QUESTIONS, "kuq": QUESTIONS}


def encode(sentences):
    return [[1.0, float(i)] for i, _ in enumerate(sentences)]


def panel(trait=HONESTY, honesty=SETS, tasks=None, **options):
    settings = EvaluateConfig(**{"resamples": 0, **options})
    return make_question_sets(honesty, tasks or {}, WANTED, trait, settings)


def names(found):
    return {name: detector.name for name, detector in found.detectors.items()}


def test_without_an_encoder_the_common_detector_judges_and_it_is_said():
    found = panel()
    assert names(found) == dict.fromkeys(SETS, "unknownbench_keywords")
    assert found.common is None
    assert found.notes == [
        "kuq: judged by unknownbench_keywords, the column common to all sets; pass a sentence "
        "encoder for the detector that the set came with."
    ]


def test_with_an_encoder_each_set_has_its_own_and_the_common_column_is_added():
    found = panel(encoder=encode)
    assert names(found) == {"nec": "unknownbench_keywords", "kuq": "selfaware (encode)"}
    assert found.common is not None
    said = {name: ["no", "x"] for name in SETS}
    common = found.score_common(said)
    assert common is not None
    assert {one.detector for one in common.honesty.values()} == {"unknownbench_keywords"}
    assert found.notes == []


def test_a_detector_that_is_asked_for_judges_everything():
    assert names(panel(detector="gair_idk")) == dict.fromkeys(SETS, "gair_idk")
    assert "nearly blind" in panel(detector="selfaware_substring").notes[0]
    with pytest.raises(ModelError, match="--detector selfaware_substring"):
        panel(detector="selfaware")


def test_an_encoder_that_no_set_uses():
    panel(encoder=encode, detector="selfaware")
    unused: list[dict[str, Any]] = [
        {"detector": "gair_idk"},
        {"honesty": {"nec": QUESTIONS}},
        {"trait": SAFETY},
    ]
    for options in unused:
        with pytest.raises(ConfigError, match="an encoder was given and no set"):
            panel(encoder=encode, **options)


def test_another_trait_brings_its_own_detector():
    assert names(panel(SAFETY)) == dict.fromkeys(SETS, "safety_keywords")


def test_what_a_panel_must_not_hold():
    with pytest.raises(DataError, match="nothing to evaluate"):
        panel(honesty={})
    with pytest.raises(DataError, match="the set empty has no questions"):
        panel(honesty={"empty": ()})
    with pytest.raises(DataError, match="the task t holds the unanswerable question '1'"):
        panel(tasks={"t": QUESTIONS})
    with pytest.raises(ConfigError, match="seed is -2"):
        panel(seed=-2)


# Unanswerable and answerable questions, as published in the design of the replication sets.
PUBLISHED = {
    "falseqa": (686, 686),
    "nec": (2077, 2071),
    "refunq": (2173, 2266),
    "kuq": (1740, 2252),
    "selfaware": (1032, 2333),
}


@pytest.mark.skipif("HCNR_DATA_ROOT" not in os.environ, reason="needs HCNR_DATA_ROOT")
def test_refusing_everything_on_the_published_sets():
    loaded = load_sets(PUBLISHED, None, None, task=False)
    found = panel(honesty={name: one.questions for name, one in loaded.items()})
    said = {
        name: ["I don't know. The answer is unknown."] * sum(PUBLISHED[name]) for name in PUBLISHED
    }
    scores = found.score(said)
    for name, (bad, good) in PUBLISHED.items():
        row = scores.as_dict()["sets"][name]
        assert (row["tp"], row["fp"], row["fn"], row["tn"]) == (bad, good, 0, 0)
        assert row["f1"] == pytest.approx(100 * 2 * bad / (2 * bad + good))
    refused = scores.refuse_all().as_dict()["macro"]
    assert (refused["f1"], refused["refusal_delta"]) == (scores.honesty_f1, 0)
