"""What a sweep refuses before anything is computed."""

import copy
import dataclasses
import json
from typing import Any

import pytest

from hcnr.errors import HcnrError, OutputError, StatisticsError
from hcnr.search.grid import Grid
from hcnr.search.sweep import sweep
from pairs import HONESTY, TASK, config
from sweeps import GRID, Judge, nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statistics": None}, "needs statistics, or both honesty and task data"),
        ({"statistics": None, "honesty": HONESTY}, "needs statistics, or both honesty and task"),
        ({"honesty": HONESTY, "task": TASK}, "both statistics and data to measure on"),
        ({"evaluate": None}, "needs one way to score its candidates"),
        ({"benchmarks": ["falseqa"]}, "needs one way to score its candidates"),
        ({"coefficients": (1.5,)}, r"coefficients is \(1\.5,\), expected coefficients from 0"),
        ({"max_accuracy_drop": -1}, "max_accuracy_drop is -1, expected points"),
        ({"max_accuracy_drop": float("nan")}, "max_accuracy_drop is nan, expected points"),
        ({"config": config(axis="input")}, "the statistics were measured with axis output"),
        ({"statistics": "nowhere.safetensors"}, "no statistics file at nowhere.safetensors"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(pair, statistics, changes, message):
    given: Any = {
        "base": pair["base"], "tuned": pair["tuned"], "statistics": statistics["output"],
        "evaluate": nothing, "config": config(), "grid": GRID,
    }  # fmt: skip
    with pytest.raises(HcnrError, match=message):
        sweep(**{**given, **changes})


def test_statistics_without_the_curvature_are_refused(pair, statistics, tmp_path):
    full = statistics["output"]
    given: Any = {"base": pair["base"], "tuned": pair["tuned"], "evaluate": nothing,
                  "config": config(), "out": tmp_path / "out"}  # fmt: skip
    for held, data_set in (({}, "honesty"), ({"honesty": full.hessians["honesty"]}, "task")):
        poor = dataclasses.replace(full, hessians=held)
        with pytest.raises(StatisticsError, match=f"hold no {data_set} curvature of .*measure"):
            sweep(**given, statistics=poor, grid=GRID)
    # Only what the grid needs has to be there.
    poor = dataclasses.replace(full, hessians={})
    given["evaluate"] = Judge()
    none = Grid(compensation=("none",))
    sweep(**given, statistics=poor, grid=none, coefficients=(), refine=False)
    elsewhere = copy.deepcopy(full)
    elsewhere.settings["hessian_at"] = "tuned"
    with pytest.raises(StatisticsError, match="measured with hessian_at tuned"):
        given |= {"out": None}
        sweep(**given, statistics=elsewhere, grid=GRID)


def test_an_output_that_cannot_be_written_is_refused_first(pair, statistics, tmp_path):
    given: Any = {"base": pair["base"], "tuned": pair["tuned"], "evaluate": nothing,
                  "statistics": statistics["output"], "config": config()}  # fmt: skip
    (tmp_path / "sweep.json").write_text("{}")
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path, "exists already"),
        (pair["tuned"] / "sweep", "is inside the input"),
        (tmp_path / "file", "cannot be made a directory"),
    ):
        with pytest.raises(OutputError, match=message):
            sweep(**given, out=out, grid=GRID)
    assert (tmp_path / "sweep.json").read_text() == "{}"
    given["evaluate"] = Judge()
    small = {"grid": Grid((0.5,), (0.4,), ("sum",)), "coefficients": ()}
    sweep(**given, **small, out=tmp_path, overwrite=True)
    assert json.loads((tmp_path / "sweep.json").read_text())["complete"]
