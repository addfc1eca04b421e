"""A sweep that was stopped goes on: nothing is judged or measured twice, and it finds the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hcnr.checkpoint import kept_work
from hcnr.choosing.front import Scores
from hcnr.curvature.passes import Passes
from hcnr.errors import OutputError
from hcnr.search.grid import Grid
from hcnr.search.sweep import sweep
from hcnr.search.validation import Validation
from pairs import config, write_jsonl

GRID = Grid(
    in_weight=(0.5,), cross_weight=(0.2, 0.6), compensation=("sum", "spectral"), task_weight=(1.0,)
)
QUIZ = [
    {"question": "w1 w2", "answerable": False},
    {"question": "w3 w4", "answerable": True, "answers": ["w5"]},
]
SUMS = [{"question": "w10 w11", "answers": ["w12"]}, {"question": "w13", "answers": ["w14"]}]
KEPT = "sweep.json.unfinished"


@pytest.fixture(autouse=True)
def dear(monkeypatch):
    """Passes of a tiny model take hardly longer than writing what they find."""
    monkeypatch.setattr(kept_work, "_RATE", 1e18)


@pytest.fixture
def run(pair, tmp_path, monkeypatch):
    """Sweep into a folder, stopped before a judgement; what was judged and how often measured."""
    sets = {
        "benchmarks": [write_jsonl(tmp_path / "quiz.jsonl", QUIZ)],
        "tasks": [write_jsonl(tmp_path / "sums.jsonl", SUMS)],
    }
    count = {"judged": 0, "passes": 0}
    judge, measure = Validation.__call__, Passes.run
    stop: list[int] = []

    def judged(self: Validation, model: Any) -> Scores:
        if stop and count["judged"] == stop[0]:
            raise KeyboardInterrupt
        count["judged"] += 1
        return judge(self, model)

    def measured(self: Passes, *args: Any, **options: Any) -> Any:
        count["passes"] += 1
        return measure(self, *args, **options)

    monkeypatch.setattr(Validation, "__call__", judged)
    monkeypatch.setattr(Passes, "run", measured)

    def call(out: str, stop_at: int | None = None, **options: Any) -> dict[str, int]:
        count.update(judged=0, passes=0)
        stop[:] = [] if stop_at is None else [stop_at]
        settings = {
            "grid": GRID, "config": config(), "coefficients": (0.3, 0.7), "refine": False,
            "max_new_tokens": 3, **sets, **options,
        }  # fmt: skip
        sweep(out=tmp_path / out, **{**pair, **settings})
        return dict(count)

    return call


def found(folder: Path) -> dict[str, Any]:
    """What a sweep found, without what another run of it changes."""
    content = json.loads((folder / "sweep.json").read_text())
    content.pop("cost")
    content["messages"] = [m for m in content["messages"] if "finished pass" not in m]
    for row in [*content["candidates"], *content["ablation"]]:
        row.pop("seconds")
    return content


def test_it_goes_on_where_it_was_stopped(run, tmp_path):
    whole = run("whole", ablate=False)
    assert whole["judged"] == 2 + 4 + 2 and whole["passes"] > 0
    # Before base, at the first candidate, among them, and among the interpolations.
    for stop_at in (0, 2, 5, 7):
        with pytest.raises(KeyboardInterrupt) as stopped:
            run("out", stop_at)
        place = tmp_path / "out" / KEPT
        assert vars(stopped.value)["kept_work"] == place and place.is_dir()
        again = run("out")
        assert again == {"judged": whole["judged"] - stop_at, "passes": 0}
        assert found(tmp_path / "out") == found(tmp_path / "whole")
        content = json.loads((tmp_path / "out" / "sweep.json").read_text())
        assert content["complete"] and content["cost"]["ratio"] is None
        assert any("taken over" in message for message in content["messages"])
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["sweep.json"]
        (tmp_path / "out" / "sweep.json").unlink()


def test_stopped_twice_and_while_it_measures(run, tmp_path, monkeypatch):
    whole = run("whole")
    real, left = Passes.run, [2]

    def interrupted(self: Passes, *args: Any, **options: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Passes, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("out")
    with pytest.raises(KeyboardInterrupt):
        run("out", 3)
    assert run("out")["judged"] == whole["judged"] - 3
    assert found(tmp_path / "out") == found(tmp_path / "whole")


def test_the_ablation_and_what_lies_near_the_best_go_on_too(run, tmp_path):
    more = {"ablate": True, "refine": True, "max_accuracy_drop": 100}
    whole = run("whole", **more)
    with pytest.raises(KeyboardInterrupt):
        run("out", whole["judged"] - 3, **more)
    assert run("out", **more)["judged"] == 3
    assert found(tmp_path / "out") == found(tmp_path / "whole")


def test_other_questions_and_other_ends_of_answers_are_judged_anew(run, pair, tmp_path):
    own = shutil.copytree(pair["tuned"], tmp_path / "own")
    with pytest.raises(KeyboardInterrupt):
        run("out", 4, tuned=own)
    settings = json.loads((own / "generation_config.json").read_text())
    (own / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [2, 5]}))
    with pytest.raises(KeyboardInterrupt):
        run("out", 7, tuned=own)  # no further than this where the first four were taken over
    quiz = write_jsonl(tmp_path / "other.jsonl", [QUIZ[0], {**QUIZ[1], "answers": ["w6"]}])
    assert run("out", tuned=own, benchmarks=[quiz])["judged"] == 2 + 4 + 2


def test_coefficients_that_lie_close_are_each_judged_by_themselves(run, tmp_path):
    """Whatever their digits have in common: one's scores are not the other's."""
    close = {"coefficients": (0.3, 0.3000001, 0.3000002)}
    whole = run("whole", **close)
    assert whole["judged"] == 2 + 4 + 3
    with pytest.raises(KeyboardInterrupt):
        run("out", 7, **close)
    assert run("out", **close)["judged"] == 2
    assert found(tmp_path / "out") == found(tmp_path / "whole")


@pytest.mark.parametrize(
    "other",
    [
        {"grid": Grid((0.5,), (0.2,), ("sum", "spectral"), (1.0,))},
        {"max_new_tokens": 4},
        {"coefficients": (0.3,)},
        {"config": config(damping=0.02)},
        {"fresh": True},
    ],
    ids=["grid", "length", "coefficients", "damping", "fresh"],
)
def test_another_sweep_begins_anew(run, tmp_path, other):
    with pytest.raises(KeyboardInterrupt):
        run("out", 4)
    count = run("out", **other)
    expected = run("expected", **other)
    assert count == expected
    assert found(tmp_path / "out") == found(tmp_path / "expected")
    messages = json.loads((tmp_path / "out" / "sweep.json").read_text())["messages"]
    why = "--fresh was given" if "fresh" in other else "models, data, settings or versions differ"
    assert any(f"not used: {why}" in message for message in messages)


def test_other_questions_begin_anew(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run("out", 4)
    write_jsonl(tmp_path / "quiz.jsonl", [*QUIZ, {"question": "w9", "answerable": False}])
    assert run("out")["judged"] == 8


def test_with_statistics_that_were_measured_before(run, statistics, tmp_path):
    given = {
        "grid": Grid((0.5,), (0.2, 0.6), ("sum",)), "honesty": None, "task": None,
        "statistics": statistics["output"],
    }  # fmt: skip
    whole = run("whole", **given)
    with pytest.raises(KeyboardInterrupt):
        run("out", 3, **given)
    assert run("out", **given)["judged"] == whole["judged"] - 3
    assert found(tmp_path / "out") == found(tmp_path / "whole")


def test_a_finished_sweep_is_not_replaced_nor_one_that_a_function_judged(run, tmp_path):
    run("out")
    with pytest.raises(OutputError, match="pass --overwrite"):
        run("out")

    seen: list[Any] = []

    def judge(model: Any) -> Scores:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(model)
        return Scores(50.0, 1.0, 50.0)

    own = {"evaluate": judge, "benchmarks": (), "tasks": ()}
    with pytest.raises(KeyboardInterrupt):
        run("own", **own)
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["sweep.json"]
    with pytest.raises(OutputError, match="pass --overwrite"):
        run("own", **own)
