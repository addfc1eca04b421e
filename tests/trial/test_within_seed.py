import dataclasses

import numpy as np
import pytest

from experiments.trial.metrics import Metrics
from experiments.trial.real_testbed import make_real_questions
from experiments.trial.seed_result import MethodResult, SeedResult
from experiments.trial.selection import Scored, Selected
from experiments.trial.text_data import SplitQuestions
from experiments.trial.trial_table import TrialTable
from experiments.trial.within_seed import SeedTable, answerable_digits
from hcnr.benchmarks.questions import Question

N = 40
ANSWERABLE = "01" * N


def metrics(right: int, wrong: int, retention: float = 96.0) -> Metrics:
    """Refuses of one set so many of the unanswerable questions and of the answerable ones."""
    did = ["0"] * (2 * N)
    did[: 2 * right : 2] = ["1"] * right
    did[1 : 2 * wrong : 2] = ["1"] * wrong
    delta = 100.0 * (right - wrong) / N
    sets = {"kuq": {"refusal_delta": delta}}
    return Metrics(50.0, delta, 100.0 * wrong / N, 7.0, retention, sets, {"kuq": "".join(did)})


def result(seed: int, ours: Metrics, theirs: Metrics) -> SeedResult:
    settings = Scored({"made": "x"}, metrics(1, 1), 1.0)
    selected = Selected(settings, ours, {"interpolation": Selected(settings, theirs)})
    methods = {
        "interpolation": MethodResult([settings], {95.0: Selected(settings, theirs)}),
        "spectral": MethodResult([settings], {95.0: selected}),
        "joint": MethodResult([settings], {95.0: None}),
    }
    references = {name: dict.fromkeys(("validation", "evaluated"), one)
            for name, one in (("base", metrics(36, 4)), ("tuned", metrics(8, 2)),
                              ("refuse all", metrics(N, N)))}  # fmt: skip
    admission = {
        "kuq": {"delta": 46.0, "low": 34.0, "high": 57.0, "n": 80, "admitted": True},
        "nec": {"delta": 4.0, "low": -7.0, "high": 15.0, "n": 80, "admitted": False},
    }
    testbed = {
        "parameters": 1,
        "answerable": {"evaluated": {"kuq": ANSWERABLE}},
        "admission": admission,
        "task_figure": "token F1",
    }
    return SeedResult("key", "tiny", seed, references, methods, {"arena": testbed})  # pyright: ignore


def test_intervals_are_those_of_a_paired_bootstrap_over_the_questions():
    ours, theirs = metrics(30, 4), metrics(20, 4)
    rows = {one["name"]: one for one in SeedTable(result(0, ours, theirs), 95.0).rows()}
    assert list(rows) == ["base", "tuned", "interpolation", "spectral"]
    found = rows["spectral"]
    assert found["delta"] == pytest.approx(65.0) and found["lead"] == pytest.approx(25.0)
    low, high = found["lead_ci95"]
    # Of 40 questions 10 differ: a difference of proportions whose standard error is 6.8 points.
    error = 100.0 * np.sqrt(0.25 * 0.75 / N)
    assert (low, high) == pytest.approx((25.0 - 1.96 * error, 25.0 + 1.96 * error), abs=2.5)
    # Unpaired it would be wider by half: the two refuse the same questions otherwise.
    assert found["ci95"][1] - found["ci95"][0] > high - low
    assert "lead" not in rows["interpolation"]


def test_the_page_has_every_seed_with_its_sets():
    seeds = [result(s, metrics(30 + s, 4), metrics(20, 4)) for s in range(2)]
    table = TrialTable("tiny", seeds, (95.0,))
    text = table.to_markdown()
    for part in (
        *("Seed 0, at least 95 % kept", "Seed 1, at least 95 % kept", "token F1"),
        *("| kuq | 80 | +46.0 (+34.0 to +57.0) | yes |", "no: base does not tell them apart"),
    ):
        assert part in text
    by_seed = table.as_dict()["by_seed"]
    assert [one["seed"] for one in by_seed] == [0, 1]
    assert by_seed[1]["rows"][-1]["lead"] == pytest.approx(27.5)


def test_seeds_without_single_answers_have_no_page():
    one = result(0, metrics(30, 4), metrics(20, 4))
    old = dataclasses.replace(one, facts={"arena": {"parameters": 1}})
    table = TrialTable("tiny", [old], (95.0,))
    assert "Seed 0, at" not in table.to_markdown() and table.as_dict()["by_seed"] == []


def test_digits_stand_in_the_order_of_the_questions():
    classes = (True, False, False, True)
    many = tuple(
        Question(str(i), "kuq", "?", answerable=one, answers=(), prompt="?")
        for i, one in enumerate(classes)
    )
    questions = make_real_questions(SplitQuestions({"kuq": many}, ()), ["kuq"])
    assert answerable_digits(questions) == {"kuq": "1001"}
