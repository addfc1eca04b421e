"""What a sweep found: its cost, its recommendation, its table."""

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from hcnr.choosing.front import Scores
from hcnr.search.result import Candidate, SweepResult
from hcnr.search.sweep import Trials
from hcnr.search.table import print_sweep


def test_the_cost_is_that_of_one_measuring_pass_and_the_dearest_candidate(capsys):
    class Selections:
        seconds = 6.0

        def __len__(self) -> int:
            return 3

    work: Any = SimpleNamespace(seconds={"compensate": 5.0, "apply": 1.0}, dearest=4.0)
    selections: Any = Selections()
    judge: Any = SimpleNamespace(seconds=2.0)
    found = SweepResult(Scores(1, 1, 1), Scores(1, 1, 1), 2.0, {"axis": "output"})
    Trials(found, judge, work, selections, 10.0, False, None).keep()
    assert found.cost == {
        "measure": 10.0, "select": 6.0, "compensate": 5.0, "apply": 1.0, "evaluate": 2.0,
        "one_restoration": 10.0 + 6.0 / 3 + 4.0, "ratio": 22.0 / 16.0,
    }  # fmt: skip
    print_sweep(found, Console(width=80))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "cost 1.38 times one restoration (this sweep's own measuring pass plus its dearest "
        "candidate), evaluation apart"
    ) in said
    Trials(found, judge, work, selections, 10.0, True, None).keep()
    assert found.cost["ratio"] is found.cost["one_restoration"] is None
    print_sweep(found, Console(width=80))
    assert "times one restoration" not in capsys.readouterr().out


def test_the_rivals_curve_ends_at_both_models():
    base, tuned = Scores(80, 60, 20), Scores(30, 5, 90)
    found = SweepResult(base, tuned, 2.0, {})
    assert found.rival(Scores(0, 0, 10)) is None
    found.interpolation.append((0.5, Scores(20, 10, 50)))
    assert found.rival(Scores(0, 0, 10)) == base
    assert found.rival(Scores(0, 0, 60)) == tuned
    assert found.rival(Scores(0, 0, 95)) is None


@pytest.mark.parametrize(
    ("rival", "word", "lines"),
    [
        (39.0, "use", ["recommendation: use: --axis output", "because: "]),
        (
            40.0,
            "interpolate instead",
            [
                "recommendation: interpolate instead: coefficient 0.5 (0 is tuned, 1 is base)",
                "best candidate: --axis output",
                "because: ",
            ],
        ),
    ],
)
def test_where_interpolation_does_as_well_it_is_recommended(rival, word, lines, capsys):
    found = SweepResult(Scores(80, 60, 20), Scores(30, 5, 90), 2.0, {"axis": "output"})
    settings = {"axis": "output", "compensation": "sum", "cross_weight_ratio": 1.0}
    found.candidates.append(Candidate(settings, Scores(60, 40, 89), 1, 0.1))
    # The better F1 is the rival's and decides nothing.
    found.interpolation.append((0.5, Scores(70, rival, 89.5)))
    found.cost = dict.fromkeys(("measure", "select", "compensate", "apply", "evaluate"), 1.0)
    found.cost["ratio"] = None
    assert found.recommendation.word == word
    kept = found.as_dict()
    assert kept["recommended"]["word"] == word
    assert kept["recommended"]["coefficient"] == (None if word == "use" else 0.5)
    assert kept["recommended"]["gain"] == {"value": 35, "ci95": None}
    assert kept["candidates"][0]["interpolation_delta"] == rival
    print_sweep(found, Console(width=200))
    text = capsys.readouterr().out
    places = [text.index(line) for line in lines]
    assert places == sorted(places)
    assert ("best candidate: " in text) == (word != "use")


def test_a_sweep_that_finds_nothing_of_use_says_so(capsys):
    found = SweepResult(Scores(80, 60, 20), Scores(30, 5, 90), 2.0, {"axis": "output"})
    settings = {"axis": "output", "compensation": "sum", "cross_weight_ratio": 1.0}
    found.candidates.append(Candidate(settings, Scores(60, 40, 50), 1, 0.1))
    found.cost = dict.fromkeys(("measure", "select", "compensate", "apply", "evaluate"), 1.0)
    found.cost["ratio"] = None
    print_sweep(found, Console(width=200))
    text = capsys.readouterr().out
    assert "recommendation: do not use any of these candidates\nbest candidate: --axis" in text
    assert "tried: 1 configurations of the grid, and 0 near the best of them" in text
