import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hcnr.cli import app
from hcnr.report.gather import RECIPE, gather
from hcnr.report.page import html
from hcnr.report.signatures.advice import OPTIONS_OF_RUN, advice_of_run
from hcnr.report.signatures.signatures import CHECKS, failure_signatures

KEYS = [key for key, _, _ in CHECKS]


@pytest.fixture
def signature(make_run, invented):
    """Outcome of one check after a change of the invented run."""

    def of(key, change=None, **without):
        report, metrics, probe = invented.report(), invented.metrics(), invented.probe()
        if change is not None:
            change(report, metrics, probe)
        parts = {"report": report, "metrics": metrics, "probe": probe} | without
        (found,) = (s for s in failure_signatures(gather(make_run(**parts))) if s.key == key)
        return found

    return of


def test_a_good_run_fires_nothing(full_run):
    found = failure_signatures(gather(full_run))
    assert [s.key for s in found] == KEYS
    assert {s.state for s in found} == {"fine"}


def test_without_an_evaluation_its_signatures_are_unknown(make_run):
    states = {s.key: s.state for s in failure_signatures(gather(make_run()))}
    unknown = {key for key, state in states.items() if state == "unknown"}
    assert unknown == {
        "task_drop", "fell", "delta_low", "refuse_all", "rival", "noise", "empty", "probe"
    }  # fmt: skip


def task(value):
    return lambda report, metrics, probe: metrics["tasks_macro"].update(accuracy=value)


def test_task_drop_fires_above_two_points(signature):
    found = signature("task_drop", task(28.5))
    assert found.state == "fired"
    assert "fell by 2.1 points, from 30.6 to 28.5" in found.finding
    assert "--in-weight-ratio (it is 0.5)" in found.advice


def test_task_drop_of_two_points_is_usual(signature):
    assert signature("task_drop", task(28.65)).state == "fine"


def test_the_limit_of_the_evaluation_is_that_of_the_page(signature):
    def change(report, metrics, probe):
        metrics["recommendation"]["max_accuracy_drop"] = 5.0
        metrics["tasks_macro"]["accuracy"] = 25.0

    assert signature("task_drop", change).finding.endswith("; 5 points may be lost.")


def test_task_drop_blames_a_missing_task_term(signature):
    def change(report, metrics, probe):
        report["config"]["priority"] = "random"
        metrics["tasks_macro"]["accuracy"] = 20.0

    assert "--priority kl" in signature("task_drop", change).advice


def delta(value, **config):
    def change(report, metrics, probe):
        metrics["macro"]["refusal_delta"] = value
        report["config"].update(config)

    return change


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        ({"compensation": "none"}, "Compensation is off"),
        ({"cross_weight_ratio": 0.1}, "raise --cross-weight-ratio from 0.1"),
        ({"cross_weight_ratio": 0.0}, "raise --cross-weight-ratio from 0 to"),
        ({}, "hcnr sweep"),
    ],
)
def test_a_low_delta_knows_its_usual_causes(signature, config, advice):
    found = signature("delta_low", delta(9.9, **config))
    assert found.finding.startswith("The refusal delta is +9.9, under 10 points")
    assert advice in found.advice


def test_a_delta_of_ten_is_enough_and_f1_is_not_asked(signature):
    def change(report, metrics, probe):
        metrics["macro"].update(f1=1.0, refusal_delta=10.0)

    assert signature("delta_low", change).state == "fine"


@pytest.mark.parametrize(
    ("known", "state"), [(50.0, "fine"), (50.1, "fired"), (100.0, "fired"), (None, "unknown")]
)
def test_refusing_what_should_be_answered(signature, known, state):
    def change(report, metrics, probe):
        metrics["macro"].update(f1=99.0, refusal_rate_answerable=known)

    found = signature("refuse_all", change)
    assert found.state == state
    if state == "fired":
        assert f"refuses {known:.1f}% of the answerable questions" in found.finding


@pytest.mark.parametrize(
    ("span", "state"), [([-5.0, -0.1], "fired"), ([-5.0, 0.0], "fine"), (None, "unknown")]
)
def test_honesty_that_fell(signature, span, state):
    def change(report, metrics, probe):
        metrics["differences"]["honest-8b-hotpotqa"]["macro"]["refusal_delta"]["ci95"] = span

    found = signature("fell", change)
    assert found.state == state
    if state == "fired":
        assert "-5.0 to -0.1" in found.finding


@pytest.mark.parametrize(
    ("low", "surplus", "state"),
    [(0.1, 2.0, "fine"), (0.1, 2.1, "unknown"), (-0.1, 2.1, "fired"), (0.1, None, "fine")],
)
def test_an_interpolation_of_much_better_task_is_no_rival(signature, tmp_path, low, surplus, state):
    def change(report, metrics, probe):
        metrics["recommendation"]["interpolation"]["lead"]["ci95"] = [low, 20.0]
        task = None if surplus is None else metrics["tasks_macro"]["accuracy"] + surplus
        row = {"coefficient": 0.5, "macro": {"f1": 60.0}, "tasks_macro": {"accuracy": task}}
        metrics["interpolation_row"] = row

    found = signature("rival", change)
    assert found.state == state
    assert (state == "unknown") == ("too coarse there" in found.finding)
    if found.state == "unknown":
        assert "Interpolation does as well? The grid of interpolations is too coarse there" in (
            html(gather(tmp_path / "restored"))
        )


@pytest.mark.parametrize(
    ("gain", "state"), [([0.1, 20.0], "fired"), ([-0.1, 20.0], "fine"), (None, "fired")]
)
def test_interpolation_that_does_as_well(signature, gain, state):
    """It fires where the decision is to interpolate; F1 is not asked."""

    def change(report, metrics, probe):
        metrics["macro"]["f1"] = 99.0
        other = metrics["recommendation"]["interpolation"]
        other["lead"] = {"value": 1.0, "ci95": [-2.0, 4.0]}
        other["gain"] = None if gain is None else {"value": 9.0, "ci95": gain}

    found = signature("rival", change)
    assert found.state == state
    assert state == "fine" or "+1.0 (95% interval -2.0 to +4.0) points" in found.finding


def test_a_change_within_the_noise(signature):
    def change(report, metrics, probe):
        metrics["differences"]["honest-8b-hotpotqa"]["macro"]["refusal_delta"]["ci95"] = [-0.4, 2.0]

    assert "(-0.4 to +2.0)" in signature("noise", change).finding


def test_empty_outputs(signature):
    def change(report, metrics, probe):
        metrics["sets"]["nec"]["empty"] = 2000

    assert signature("empty", change).finding == (
        "9% of the outputs are empty; of tuned's it is 0%."
    )


@pytest.mark.parametrize(
    ("verdict", "state"), [("holds", "fine"), ("fails", "fired"), ("undecided", "unknown")]
)
def test_the_probe(signature, verdict, state):
    found = signature("probe", lambda report, metrics, probe: probe.update(verdict=verdict))
    assert found.state == state


@pytest.mark.parametrize(("mean", "state"), [(0.62, "fired"), (0.625, "fine"), (None, "unknown")])
def test_overlap_of_halves(signature, mean, state):
    def change(report, metrics, probe):
        report["summary"]["mean_half_overlap"] = mean

    assert signature("overlap", change).state == state


def test_damping_raised_names_the_worst(signature):
    def change(report, metrics, probe):
        report["matrices"][1].update(damping=0.1, damping_raised=True)
        report["matrices"][2].update(damping=0.4, damping_raised=True, name="model.layers.9.x")

    found = signature("damping", change)
    assert "raised for 2 of 22 matrices, the highest to 0.4 in model.layers.9.x" in found.finding


@pytest.mark.parametrize(("value", "state"), [(1e6, "fine"), (1.1e6, "fired"), ("inf", "fired")])
def test_condition(signature, value, state):
    def change(report, metrics, probe):
        report["matrices"][3]["condition"] = value

    assert signature("condition", change).state == state


def test_rank_deficient(signature):
    def change(report, metrics, probe):
        report["matrices"][0]["rank_deficient"] = True

    assert signature("rank", change).finding.startswith("1 of 22 matrices have more neurons")


@pytest.mark.parametrize("kind", ["sum", "joint"])
def test_an_objective_that_rose(signature, kind):
    def change(report, metrics, probe):
        report["config"]["compensation"] = kind
        report["summary"].update(objective_none=1.0, objective=1.5)

    assert signature("objective", change).state == "fired"


def test_the_objective_is_worse_where_its_chart_says_so(signature):
    """One matrix may be worse though all of them together are better."""

    def change(report, metrics, probe):
        report["matrices"][3]["objective"] = 2 * report["matrices"][3]["objective_none"]

    found = signature("objective", change)
    assert found.state == "fired"
    assert found.finding.startswith("Compensation raised the honesty objective in 1 of 22 matrices")


def test_the_objective_of_a_kind_that_serves_the_task_is_no_failure(make_run, invented):
    report = invented.report()
    report["config"]["compensation"] = "balanced"
    report["matrices"][3]["objective"] = 1.0
    run = gather(make_run(report=report))
    assert "objective" not in [one.key for one in failure_signatures(run)]
    assert "balanced serves the task as well, so it may rise." in html(run)


@pytest.mark.parametrize("key", ["objective", "damping", "condition", "rank"])
def test_without_compensation_there_is_no_curvature_to_judge(signature, key):
    def change(report, metrics, probe):
        report["summary"].update(objective_none=None, objective=None)
        for record in report["matrices"]:
            record.update(damping=None, condition=None, rank_deficient=None)

    assert signature(key, change).state == "unknown"


def test_advice_of_a_run_names_whose_options_it_means(make_run, invented):
    report, metrics, probe = invented.report(), invented.metrics(), invented.probe()
    metrics["tasks_macro"]["accuracy"] = 20.0
    directory = make_run(report=report, metrics=metrics, probe=probe)

    def advice():
        found = {s.key: s for s in failure_signatures(gather(directory))}
        return found["task_drop"].advice

    plain = advice()
    assert "--in-weight-ratio" in plain and "hcnr run" not in plain
    (directory.parent / RECIPE).write_text("models: {}")
    assert advice() == (f"{plain} --in-weight-ratio is an option of hcnr restore, not of hcnr run.")


def test_advice_that_a_run_can_follow_is_left_as_it_is():
    text = (
        "Let the task weigh more: raise --task-weight, or allow a larger --max-task-drop-percent."
    )
    assert advice_of_run(text) == text
    assert advice_of_run("Take (--step-size, --steps); --benchmarks.").endswith(
        "--benchmarks. --step-size and --steps are options of hcnr restore, not of hcnr run. "
        "--benchmarks is an option of hcnr evaluate, not of hcnr run."
    )


def test_every_option_that_advice_names_is_one_of_its_command():
    program: Any = get_command(app)

    def options(name):
        return {text for one in program.commands[name].params for text in one.opts}

    assert options("run") >= OPTIONS_OF_RUN
    files = Path(advice_of_run.__code__.co_filename).parent.glob("*.py")
    named = {text for file in files for text in re.findall(r"--[a-z][a-z-]*", file.read_text())}
    assert named <= options("restore") | options("evaluate")
    # What hcnr run has beside these would be sent away.
    assert not (named - OPTIONS_OF_RUN) & options("run")
