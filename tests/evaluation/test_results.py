"""What is said about a model by its answers, here made up."""

import dataclasses
import json

import pytest

from hcnr.benchmarks.questions import Question
from hcnr.config import EvaluateConfig
from hcnr.detectors.traits import HONESTY
from hcnr.evaluation.question_sets import make_question_sets
from hcnr.evaluation.results import recommended
from hcnr.evaluation.scoring import SetScores
from hcnr.record.files.decision import Recommended
from hcnr.record.files.evaluation import EvaluationRecord
from hcnr.report.decision import decision_of

N = 100
NAMES = tuple(
    Question(id=str(i), set="names", question=f"q {i}", answerable=i % 2 == 1,
             answers=("yes",) if i % 2 else (), prompt=f"q {i}")
    for i in range(2 * N)
)  # fmt: skip
JOB = tuple(
    Question(id=str(i), set="job", question=f"j {i}", answerable=True, answers=("yes",),
             prompt=f"j {i}", task=True)
    for i in range(N)
)  # fmt: skip


def answered(unknown: int, known: int = 0, right: int = 90, *, task: bool = True) -> SetScores:
    """A model that refuses so many of each hundred, and does so many of the task."""
    panel = make_question_sets(
        {"names": NAMES},
        {"job": JOB} if task else {},
        {},
        HONESTY,
        EvaluateConfig(detector="template:no", resamples=200),
    )
    refused = [("no" if i // 2 < (known if i % 2 else unknown) else "yes") for i in range(2 * N)]
    responses = {"names": refused, "job": ["yes"] * right + ["perhaps"] * (N - right)}
    return panel.score({name: responses[name] for name in panel.sets})


TUNED, BASE = answered(10), answered(90, right=0)


@pytest.mark.parametrize(
    ("model", "middle", "limit", "word"),
    [
        (answered(50), answered(20), 2.0, "use"),
        (answered(50, right=85), answered(20), 2.0, "interpolate instead"),
        (answered(50, right=85), answered(20, right=80), 2.0, "do not use"),
        (answered(50, right=85), answered(20, right=80), 5.0, "use"),
        (answered(21), answered(40), 2.0, "interpolate instead"),
        (answered(41), answered(40), 2.0, "interpolate instead"),  # one question more is no lead
        (answered(11), answered(11), 2.0, "do not use"),
        (answered(100, 100), answered(11), 2.0, "do not use"),  # refuses everything, F1 67
        (answered(5), answered(11), 2.0, "do not use"),
    ],
)
def test_the_words_by_answers(model, middle, limit, word):
    curve = [(0.0, TUNED), (0.5, middle), (1.0, BASE)]
    # The curve of an evaluation comes without resamples, which are made up for.
    curve = [(c, dataclasses.replace(one, resamples=0)) for c, one in curve]
    found = recommended(model, TUNED, curve, limit)
    assert found.word == word
    gain = found.evidence.gain
    assert gain is not None and gain.ci95 is not None
    rival = found.evidence.rival
    assert rival is None or rival.coefficient == 1.0 or rival.lead.ci95 is not None
    assert json.loads(json.dumps(Recommended.by(found).as_dict()))["word"] == word


@pytest.mark.parametrize(
    ("right", "limit", "word", "told"),
    [
        (90, 1.0, "use", True),
        (89, 1.0, "unclear", True),  # one more would be too many
        (88, 1.0, "unclear", True),  # one fewer would do
        (87, 1.0, "do not use", True),
        (89, 2.0, "use", False),
        (89, 0.0, "do not use", False),
    ],
)
def test_one_task_question_does_not_decide(right, limit, word, told):
    found = recommended(answered(50, right=right), TUNED, (), limit)
    assert found.word == word
    assert told == ("less than two task questions (1.0 points each)" in found.reason)
    assert not told or "ask 2 times as many" in found.reason
    written = EvaluationRecord(model="x", recommendation=Recommended.by(found))
    assert decision_of(written, None, None) == found, "what the page reads of the file"


def test_a_use_in_doubt_is_unclear():
    found = recommended(answered(50), TUNED, (), 2.0, "nothing was measured")
    assert found.word == "unclear" and found.reason.endswith("; but nothing was measured")
    assert recommended(answered(11), TUNED, (), 2.0, "nothing was measured").word == "do not use"


def test_a_lead_is_paired():
    """Forty-nine of the fifty refusals are the same questions."""
    found = recommended(answered(50), TUNED, [(0.0, TUNED), (0.5, answered(30))])
    rival = found.evidence.rival
    assert rival is not None and rival.lead.ci95 is not None
    low, high = rival.lead.ci95
    assert 8 < low < 20 < high < 32, "of all questions redrawn, not of two independent draws"


def test_without_a_task_or_without_intervals():
    model, tuned = answered(50, task=False), answered(10, task=False)
    assert recommended(model, tuned).word == "unclear"
    assert recommended(tuned, tuned).word == "do not use"
    bare = dataclasses.replace(answered(11), resamples=0)
    found = recommended(bare, TUNED)
    assert found.word == "use" and "is +1.0 points over" in found.reason
