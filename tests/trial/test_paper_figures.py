"""The command of the paper's figures on a tiny pair: what it finds, and how it goes on."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

import hcnr
from experiments.paper_figures import __main__ as command
from experiments.paper_figures import results, running
from experiments.paper_figures.grids import FIGURES, PRIORITIES, RANDOM, Case, cases
from experiments.paper_figures.maker import key
from experiments.paper_figures.page import to_markdown
from experiments.paper_figures.results import Settings, figures_of, over_random
from experiments.paper_figures.running import run_figures
from experiments.paper_figures.stage import cut_down, dealt, first_of_each
from experiments.trial.candidate_specs import Interpolated, Restored, Samples
from experiments.trial.metrics import Metrics
from hcnr.data.batches import part_of
from hcnr.data.samples import Sample, load_samples
from hcnr.errors import ConfigError, OutputError
from hcnr.stats import resample
from testbeds import QuestionedTestBed, ask, write_questioned_testbed

TINY = Samples(8)
CASES: dict[str, tuple[Case, ...]] = {
    "sweep": tuple(
        Case("sweep", {"R_IW": 0.5, "R_CW": share}, Restored("sum", cross_weight_ratio=share), TINY)
        for share in (0.4, 1.0)
    ),
    "ablation": (
        Case("ablation", {"way": "sum", "neurons": "priority"}, Restored("sum"), TINY),
        Case("ablation", {"way": "interpolation", "neurons": "0.2"}, Interpolated(0.2), TINY),
        Case("ablation", {"way": "interpolation", "neurons": "0.9"}, Interpolated(0.9), TINY),
    ),
    "size": (Case("size", {"samples": 4, "way": "sum"}, Restored("sum"), Samples(4)),),
}
SETTINGS = Settings("tiny", "nq", 0, ["kuq"], 6, 9, 8, 1, "python -m experiments.paper_figures")


@pytest.fixture
def testbed(tmp_path: Path) -> QuestionedTestBed:
    return write_questioned_testbed(tmp_path / "pair")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "cases", lambda figure, samples: CASES[figure])
    monkeypatch.setattr(results, "cases", lambda figure, samples: CASES[figure])


def run(testbed: QuestionedTestBed, out: Path, *names: str) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    return run_figures(testbed, out, SETTINGS, names, said.append), said


def test_every_figure_is_made_and_nothing_is_done_twice(testbed: QuestionedTestBed, tmp_path: Path):
    out = tmp_path / "out"
    found, _ = run(testbed, out, "probe", "overlap", *FIGURES)
    assert json.loads((out / "figures.json").read_text()) == found
    assert found["not_run"] == []
    assert found["settings"]["asked"] == {"kuq": 12}
    ends = {name: (one["kept"], one["delta"]) for name, one in found["ends"].items()}
    assert ends == {"base": (0.0, 100.0), "tuned": (100.0, 0.0)}
    # The whole of the validation is what the probes are asked.
    assert found["probe"]["data"]["samples"] == 24
    assert [row["R_IW"] for row in found["overlap"]][:4] == [0.1, 0.25, 0.5, 0.75]
    rows = {(row["way"], row["neurons"]): row for row in found["ablation"]}
    near = rows["interpolation", "0.2"]
    assert near["kept"] == pytest.approx(80, abs=1e-3)
    assert near["delta"] == pytest.approx(100 / 6)  # one of six, to which 20 % is rounded
    assert near["ci95"][0] <= near["delta"] <= near["ci95"][1]
    far = rows["interpolation", "0.9"]
    assert far == {"way": "interpolation", "neurons": "0.9", "kept": pytest.approx(10, abs=1e-3),
                   "delta": None}  # fmt: skip
    # The same candidate stands in two figures, and was asked once.
    whole = next(row for row in found["sweep"] if row["R_CW"] == 1.0)
    assert rows["sum", "priority"]["kept"] == whole["kept"]
    asked = 2 + len({key(one) for many in CASES.values() for one in many})
    assert len(testbed.asked) == asked
    files = {path: path.stat().st_mtime_ns for path in out.glob("statistics-*")}
    assert len(files) == 2
    again, said = run(testbed, out, "probe", "overlap", *FIGURES)
    assert again == found and said == [] and len(testbed.asked) == asked
    assert files == {path: path.stat().st_mtime_ns for path in out.glob("statistics-*")}


def test_a_stopped_run_goes_on(testbed: QuestionedTestBed, tmp_path: Path):
    out = tmp_path / "out"
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt

    stopping = dataclasses.replace(testbed, before=stop)
    with pytest.raises(KeyboardInterrupt):
        run(stopping, out, "sweep", "ablation")
    assert len(stopping.asked) == 3  # base, tuned, and the first of the sweep
    seen, said = run(testbed, out)
    assert said == [] and len(seen["sweep"]) == 1
    assert "sweep: R_IW 0.5, R_CW 1.0" in seen["not_run"]
    testbed.asked.clear()
    found, said = run(testbed, out, "sweep", "ablation")
    assert len(testbed.asked) == 3 and len(said) == 3
    fresh, _ = run(testbed, tmp_path / "fresh", "sweep", "ablation")
    assert found == fresh


def test_other_questions_are_refused(testbed: QuestionedTestBed, tmp_path: Path):
    run(testbed, tmp_path / "out")
    fewer = dataclasses.replace(SETTINGS, questions=5)
    with pytest.raises(OutputError, match="another pair"):
        run_figures(testbed, tmp_path / "out", fewer, [], print)
    unknown = dataclasses.replace(SETTINGS, sets=["falseqa"])
    with pytest.raises(ConfigError, match=r"'falseqa' takes no part, expected some of kuq, nec"):
        run_figures(testbed, tmp_path / "other", unknown, [], print)


def test_the_page_says_what_the_json_says(testbed: QuestionedTestBed, tmp_path: Path):
    found, _ = run(testbed, tmp_path / "out", "probe", "overlap", "ablation")
    assert str(tmp_path) not in json.dumps(found) and "seconds" not in found["probe"]
    assert found["probe"]["pair"]["fingerprints"].keys() == {"base", "tuned"}
    text = to_markdown(found)
    assert text.count("| interpolation | 0.9 |  | 10.0 | not asked |  |  |  |") == 1
    (sum_row,) = (row for row in found["ablation"] if row["way"] == "sum")
    low, high = sum_row["ci95"] if sum_row["delta"] is not None else (0, 0)
    if sum_row["delta"] is not None:
        assert f"{sum_row['delta']:+.1f} ({low:+.1f} to {high:+.1f})" in text
    best = found["probe"]["best_transfer"]
    assert f"{best['auroc']:.2f} ({best['low']:.2f} to {best['high']:.2f})" in text
    first = found["overlap"][0]
    assert f"| priority | 0.1 | {100 * first['neurons']:.0f} (" in text
    assert text.endswith("### Not run\n\nsweep: R_IW 0.5, R_CW 0.4; size: samples 4, way sum.\n")
    assert "### How many samples" not in text


def test_the_interval_is_over_questions():
    answerable, refused = {"kuq": "000111"}, {"kuq": "110100"}
    metrics = Metrics(50.0, 0.0, 0.0, 0.0, 90.0, {"kuq": {"refusal_delta": 33.3}}, refused)
    found = figures_of(metrics, answerable)
    assert found["delta"] == pytest.approx(100 * (2 / 3 - 1 / 3))
    # By hand: each draw's own rates of its unanswerable and its answerable questions.
    import numpy as np

    digits = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0],
                       [0, 0, 1, 0]], np.float32)  # fmt: skip
    drawn = resample(digits, key="kuq", resamples=2000)
    with np.errstate(invalid="ignore"):
        deltas = 100 * (drawn[:, 1] / drawn[:, 0] - drawn[:, 3] / drawn[:, 2])
    assert found["ci95"] == pytest.approx(np.nanpercentile(deltas, [2.5, 97.5]).tolist())


def test_neurons_are_compared_with_random_ones_question_by_question():
    answerable = {"kuq": "0" * 40 + "1" * 40}
    refused = {
        "priority": "1" * 30 + "0" * 10 + "0" * 40,
        RANDOM: "1" * 28 + "0" * 12 + "0" * 40,
        "without the task term": "",
    }
    wanted = [
        Case("ablation", {"way": way, "neurons": name}, Restored(way, priority=kind))
        for way in ("sum", "none")
        for kind, name in PRIORITIES.items()
    ]
    judged = {
        key(case): (
            Metrics(
                50.0, 0.0, 0.0, 0.0, 90.0, {},
                {"kuq": digits} if (digits := refused[str(case.labels["neurons"])]) else {},
            ),
            0.0,
        )
        for case in wanted
        if case.labels["way"] == "sum"
    }  # fmt: skip

    class Kept:
        def get(self, name: str, part: str) -> Any:
            return judged.get(name)

    def over(neurons: str, way: str = "sum") -> dict[str, Any]:
        return over_random({"way": way, "neurons": neurons}, wanted, cast(Any, Kept()), answerable)

    lead = over("priority")
    assert lead["over_random"] == pytest.approx(5.0)
    low, high = lead["over_random_ci95"]
    # 2 of 40 questions tell them apart: much narrower than two intervals of their own.
    assert 0.0 <= low < 5.0 < high < 14.0
    assert over(RANDOM) == over("without the task term") == over("priority", "none") == {}


def test_halves_are_alike_and_beginnings_stay():
    samples = [Sample(f"q{i}", f"r{i}", answerable=bool(i % 2)) for i in range(36)]
    order = dealt(samples)
    assert sorted(one.prompt for one in order) == sorted(one.prompt for one in samples)
    for count in (8, 16, 32):
        some = order[:count]
        assert {one.prompt for one in some} == {one.prompt for one in samples[:count]}
        for part in (0, 1):
            half = [one for i, one in enumerate(some) if part_of(i, 2) == part]
            assert sum(bool(one.answerable) for one in half) == count // 4
    # By even and odd index, one half would hold refusals alone without it.
    assert not any(one.answerable for one in samples[::2])
    assert any(one.answerable for one in order[:8:2])


def test_a_pair_is_asked_fewer_questions(testbed: QuestionedTestBed, tmp_path: Path):
    small = cut_down(testbed, tmp_path, [], 5, 9)
    honesty = small.question_sets["validation"].honesty
    assert {name: len(many) for name, many in honesty.items()} == {"kuq": 10, "nec": 10}
    assert small.facts["answerable"]["validation"]["kuq"] == "0" * 5 + "1" * 5
    assert len(load_samples(small.honesty)) == len(load_samples(testbed.honesty))
    many = ask("kuq", 3)
    assert [one.id for one in first_of_each(many, 2)] == ["kuq-0", "kuq-1", "kuq-3", "kuq-4"]


def test_each_figure_has_its_candidates_once(monkeypatch: pytest.MonkeyPatch):
    for figure in FIGURES:
        keys = [key(one) for one in cases(figure)]
        assert len(keys) == len(set(keys)) > 0
        assert {one.figure for one in cases(figure)} == {figure}
    paper = Restored("sum", cross_weight_ratio=0.4)
    assert paper in [one.spec for one in cases("sweep")]
    assert {one.samples.count for one in cases("size")} == {16, 32, 64, 128, 256}


def test_the_command(testbed: QuestionedTestBed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(running, "open_pair", lambda *_: testbed)
    words = ["--task", "nq", "--data-root", "/some/place", "--sets", "kuq", "--questions", "6"]
    monkeypatch.setattr("sys.argv", ["experiments.paper_figures", *words, "--out=x", "--collect"])
    out = tmp_path / "out"
    result = CliRunner().invoke(
        command.app, [*words, "--out", str(out), "--only", "probe,ablation"]
    )
    assert result.exit_code == 0, result.output
    assert re.search(r"way interpolation, neurons 0.2: 80.0 % kept, delta \+\d", result.output)
    assert {one.name for one in out.iterdir()} >= {"figures.json", "figures.md", "probe.svg"}
    found = json.loads((out / "figures.json").read_text())
    assert found["settings"]["command"] == (
        "python -m experiments.paper_figures --task nq --data-root DATA --sets kuq --questions 6 "
        "--out OUT"
    )
    assert found["versions"]["hcnr"] == hcnr.__version__
    wrong = CliRunner().invoke(command.app, ["--only", "probes"])
    assert isinstance(wrong.exception, ConfigError)
    assert "expected some of probe, overlap, sweep" in str(wrong.exception)
