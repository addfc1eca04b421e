import json

import pytest

from experiments.trial.method_summary import (
    MOST_APART,
    MethodSummary,
    PairedDifference,
    developed_on,
    verdict,
)
from experiments.trial.metrics import Metrics
from experiments.trial.selection import Scored, Selected
from hcnr.demo.seeds import Spread


def metrics(f1: float, delta: float = 50.0, retention: float = 96.0) -> Metrics:
    return Metrics(f1, delta, 3.0, 80.0, retention, {})


def selected(evaluated: Metrics) -> Selected:
    return Selected(Scored({"made": "restored"}, metrics(1.0, 2.0, 99.0), 2.0), evaluated)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ((10.0, 10.5, 9.5), "better"),
        ((-10.0, -10.5, -9.5), "worse"),
        ((10.0, -1.0, 3.0), "undecided"),
        ((0.0, 0.0, 0.0), "undecided"),
        ((1e-13, 1e-13, 1e-13), "undecided"),
        ((99.0,), "undecided"),
    ],
)
def test_nothing_is_claimed_where_the_interval_holds_0(values: tuple[float, ...], found: str):
    assert verdict(Spread(values)) == found


def test_a_difference_takes_every_figure_by_itself():
    """F1 is better in every seed, the refusal delta worse."""
    difference = PairedDifference(
        tuple((metrics(60.0 + s, 40.0 + s), metrics(50.0 + s, 47.0 + s)) for s in range(3))
    )
    assert difference.of("f1").values == (10.0, 10.0, 10.0)
    assert difference.of("refusal_delta").values == (-7.0, -7.0, -7.0)
    assert (difference.verdict("f1"), difference.verdict("refusal_delta")) == ("better", "worse")
    found = difference.as_dict()
    assert (found["f1"]["verdict"], found["refusal_delta"]["verdict"]) == ("better", "worse")
    assert found["refusal_delta"]["mean"] == -7.0


@pytest.mark.parametrize(
    ("retention", "told"),
    [
        (96.0 + MOST_APART, "better"),
        (96.0 - MOST_APART, "better"),
        (99.1, "not compared"),
        (92.9, "not compared"),
        (float("nan"), "not compared"),
    ],
)
def test_what_keeps_more_than_3_points_apart_is_not_compared(retention: float, told: str):
    difference = PairedDifference(((metrics(60.0), metrics(50.0, 50.0, retention)),) * 2)
    assert difference.verdict("f1") == told
    assert difference.comparable == (told == "better")
    assert "NaN" not in json.dumps(difference.as_dict())


def test_it_is_the_mean_retention_that_decides():
    near = PairedDifference(
        ((metrics(60.0), metrics(50.0, 50.0, 90.0)), (metrics(60.0), metrics(50.0, 50.0, 102.0)))
    )
    assert near.comparable and near.kept == (96.0, 96.0)


@pytest.mark.parametrize(
    ("retention", "words"),
    [
        (91.5, "keeps 4.5 points more"),
        (100.0, "keeps 4.0 points less"),
        (float("nan"), "what is kept is undefined"),
    ],
)
def test_how_far_they_are_apart_in_words(retention: float, words: str):
    assert PairedDifference(((metrics(60.0), metrics(50.0, 50.0, retention)),)).apart == words


def test_pairs_are_the_seeds_in_which_both_have_a_selection():
    mine = [selected(metrics(60.0)), selected(metrics(70.0)), None, selected(metrics(80.0))]
    theirs = [None, selected(metrics(1.0)), selected(metrics(2.0)), selected(metrics(4.0))]
    row = MethodSummary.of_selections("x", mine, {"them": theirs, "nobody": [None] * 4})
    assert row.differences.keys() == {"them"}
    assert row.differences["them"].of("f1").values == (69.0, 76.0)
    assert (row.seeds, row.of) == (3, 4)
    assert row.as_dict()["leads"]["them"]["n"] == 2
    cells = row.cells(["them", "nobody"], " ")
    assert cells[-4:] == ["+0.0 ±0.0 (n 2)", "+72.5 ±44.5 (n 2)", "", ""]


def test_a_difference_over_all_seeds_of_the_row_names_no_number():
    mine = [selected(metrics(60.0)), selected(metrics(70.0)), None]
    row = MethodSummary.of_selections("x", mine, {"them": [selected(metrics(1.0))] * 3})
    assert row.cells(["them"], " ")[-1] == "+64.0 ±63.5"


def test_figures_are_of_the_evaluated_questions():
    row = MethodSummary.of_selections("x", [selected(metrics(60.0, 44.0, 93.0))], {})
    means = {name: found.mean for name, found in row.figures.items()}
    assert means == {
        "f1": 60.0,
        "refusal_delta": 44.0,
        "refusal_answerable": 3.0,
        "retention": 93.0,
        "accuracy": 80.0,
        "seconds": 2.0,
    }


@pytest.mark.parametrize(
    ("world", "seeds", "told"),
    [
        ("synthetic", [0, 1, 2], True),
        ("synthetic", [2, 3, 4], True),
        ("synthetic", [3, 4, 5], False),
        ("text", [0, 1, 2], False),
        ("synthetic, quick", [0], False),
    ],
)
def test_seeds_that_were_developed_on_are_no_fresh_trial(world, seeds, told: bool):
    assert bool(developed_on(world, seeds)) == told
